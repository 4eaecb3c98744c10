#!/bin/sh
# Runs a statically linked self-test on an emulated processor with AVX-512, for machines without:
#
#   cpp/selftest/emulated.sh build/emulated/selftest
#
# Needs, of Debian: bochs bochsbios vgabios grub-pc-bin xorriso mtools busybox-static, and apt
# for a kernel, which is unpacked and not installed. QEMU does not know AVX-512, Bochs does. Takes
# 20 minutes of a processor. The exit status is 0 only if everything was tested and nothing failed.
set -eu
program=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

# The cloud kernel has no drivers for machines that are not there: it boots faster.
kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ {print $2; exit}')
apt-get download "$kernel" 2>/dev/null
dpkg -x linux-image-*.deb unpacked

mkdir -p root/bin root/proc root/sys root/dev image/boot/grub
cp "$(command -v busybox)" root/bin/busybox
cp "$program" root/selftest
cat >root/init <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec >/dev/ttyS0 2>&1
/bin/busybox grep -o -m1 'avx512f' /proc/cpuinfo
/selftest without-fork
echo "exit status $?"
/bin/busybox sleep 5  # the last words are still in the serial port
/bin/busybox poweroff -f
INIT
chmod +x root/init
(cd root && find . | busybox cpio -o -H newc) >image/boot/initramfs
cp unpacked/boot/vmlinuz-* image/boot/vmlinuz
# Bochs 2.7 gives another size for compactly saved registers than Linux computes, which then turns
# the saving off and with it hides AVX and AVX-512: so without the compact form.
cat >image/boot/grub/grub.cfg <<'GRUB'
set timeout=0
menuentry selftest {
  linux /boot/vmlinuz clearcpuid=xsavec,xsaves console=ttyS0 quiet nokaslr mitigations=off tsc=reliable no_timer_check
  initrd /boot/initramfs
}
GRUB
grub-mkrescue -o selftest.iso image 2>/dev/null

cat >bochsrc <<BOCHS
cpu: model=corei7_skylake_x, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest=512, host=512
romimage: file=$(dpkg -L bochsbios | grep -m1 'BIOS-bochs-latest$')
vgaromimage: file=$(dpkg -L vgabios | grep -m1 '/vgabios.bin$')
ata0-master: type=cdrom, path=selftest.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=serial
display_library: rfb, options="timeout=0"
log: bochs.log
panic: action=fatal
BOCHS
# Its debugger, if Bochs has one, waits for a word.
echo c | timeout 3600 bochs -q -f bochsrc >/dev/null 2>&1 &
bochs=$!
while kill -0 $bochs 2>/dev/null && ! grep -qE 'exit status [0-9]|panic' serial 2>/dev/null; do sleep 2; done
kill $bochs 2>/dev/null || true
if ! [ -s serial ]; then
    tail -n 3 bochs.log
    exit 2
fi
tr -d '\r' <serial
grep -q 'convolutions in many ways, avx512' serial && grep -q 'exit status 0' serial
