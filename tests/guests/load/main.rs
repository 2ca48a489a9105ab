//! What puts load on a disk from inside a guest, and says on the console what was acknowledged: for
//! scenarios in which the power fails. Packed by `qemu/pack-programs`.
//!
//! Each thing it says is one line, `@@NAME WORDS .`; the full stop tells a line that was cut off.

mod checked_states;
mod common;
mod dax_file;
mod direct;
mod disk;
mod files;
mod operations;
mod window;

use std::io::Write;

const USAGE: &str = "Usage: guest-load files FOLDER SEED        makes files, for ever
       guest-load mapped-files FOLDER SEED
                                          likewise, by stores to mappings as well
       guest-load find-files FOLDER       says which files are whole
       guest-load direct DEVICE SEED      writes sectors of a block device, for ever
       guest-load pages DEVICE SEED       writes pages of 16 KiB of a block device, for ever
       guest-load disk SOCKET SECTOR-SIZE VERSION SEED
                                          writes sectors of a vhost-user disk, for ever
       guest-load find-sectors SOCKET SECTOR-SIZE
                                          says what the sectors are
       guest-load fill-mapped FILE SEED   fills a file by stores to a mapping of it
       guest-load direct-mapped FILE DEVICE
                                          writes and reads a block device from and to such a mapping
       guest-load operations FOLDER SEED COUNT
                                          does things to files, and marks each when it is durable
       guest-load check-operations FILE-SYSTEM OPTIONS SEED COUNT
                                          says of one state of /dev/vda after another whether they are there
       guest-load window NUMBER length    says how long a window of a virtio device is
       guest-load window NUMBER put OFFSET TEXT
                                          stores a text there
       guest-load window NUMBER wait OFFSET TEXT
                                          waits for a text there";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match arguments[..] {
        ["files", folder, seed] => files::make(folder.as_ref(), number(seed), false),
        ["mapped-files", folder, seed] => files::make(folder.as_ref(), number(seed), true),
        ["find-files", folder] => files::find(folder.as_ref()),
        ["direct", device, seed] => direct::write(device.as_ref(), number(seed), 1),
        ["pages", device, seed] => direct::write(device.as_ref(), number(seed), 4),
        ["disk", socket, sector_size, version, seed] => {
            disk::write(socket.as_ref(), number(sector_size), number(version), number(seed));
        }
        ["find-sectors", socket, sector_size] => {
            disk::find(socket.as_ref(), number(sector_size));
        }
        ["fill-mapped", file, seed] => dax_file::fill(file.as_ref(), number(seed)),
        ["direct-mapped", file, device] => dax_file::direct(file.as_ref(), device.as_ref()),
        ["operations", folder, seed, count] => {
            checked_states::record(folder.as_ref(), number(seed), number(count) as usize);
        }
        ["check-operations", kind, options, seed, count] => {
            checked_states::check(kind, options, number(seed), number(count) as usize);
        }
        ["window", window, "length"] => window::length(number(window) as u8),
        ["window", window, "put", offset, text] => {
            window::put(number(window) as u8, number(offset) as usize, text);
        }
        ["window", window, "wait", offset, text] => {
            window::wait(number(window) as u8, number(offset) as usize, text);
        }
        _ => panic!("{USAGE}"),
    }
}

/// Says something to the scenario, in one write that begins with a line break: others may be in the
/// middle of a line.
fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(format!("\n@@{text} .\n").as_bytes()).unwrap();
    stdout.flush().unwrap();
}
