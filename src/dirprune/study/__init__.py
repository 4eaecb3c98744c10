"""Many runs: comparing methods and tuning c."""
