// Placeholder of the parser's fuzzer.
int main() { return 0; }
