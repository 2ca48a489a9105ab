# shellcheck shell=dash
# Stands before every scenario's script: sh of busybox, in the guest of qemu/init.
set -eux
set -o pipefail

# Tells the scenario on the host something: say NAME VALUE
# In one write that begins with a line break, for others may be writing lines piece by piece (as set -x does).
say() {
    printf '\n@@%s\n' "$*"
}

# Tells the scenario the SHA-256 of stdin: say_sha256 NAME
say_sha256() {
    say "$1" "$(sha256sum | cut -d ' ' -f 1)"
}

# Writes bytes (as head -c counts them: 7, 4k, 1m) of which no two sectors agree, so that one in the wrong place
# shows: random 16m
random() {
    head -c "$1" /dev/urandom
}

# All sectors of a disk, read from the disk and not from memory, and one at a time: Linux's nd_btt reads zero
# sectors wrong when a request spans several. read_sectors DISK
read_sectors() {
    blockdev --flushbufs "$1"
    dd if="$1" bs="$(blockdev --getss "$1")" iflag=direct 2>/dev/null
}

# Fails if the kernel has complained about a disk or its file system.
no_disk_errors() {
    if dmesg | grep -iE 'I/O error|EXT4-fs (error|warning)|blk_update_request|critical (target|medium|space)|hung|blocked for more'; then
        return 1
    fi
}
