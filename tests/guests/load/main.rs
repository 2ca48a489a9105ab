//! What puts load on a disk from inside a guest, and says on the console what was acknowledged: for
//! scenarios in which the power fails. Packed by `qemu/pack-programs`.
//!
//! Each thing it says is one line, `@@NAME WORDS .`; the full stop tells a line that was cut off.

mod common;
mod direct;
mod disk;
mod files;

use std::io::Write;

const USAGE: &str = "Usage: guest-load files FOLDER SEED        makes files, for ever
       guest-load find-files FOLDER       says which files are whole
       guest-load direct DEVICE SEED      writes sectors of a block device, for ever
       guest-load disk SOCKET SECTOR-SIZE VERSION SEED
                                          writes sectors of a vhost-user disk, for ever
       guest-load find-sectors SOCKET SECTOR-SIZE
                                          says what the sectors are";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().expect("a number");
    match arguments[..] {
        ["files", folder, seed] => files::make(folder.as_ref(), number(seed)),
        ["find-files", folder] => files::find(folder.as_ref()),
        ["direct", device, seed] => direct::write(device.as_ref(), number(seed)),
        ["disk", socket, sector_size, version, seed] => {
            disk::write(socket.as_ref(), number(sector_size), number(version), number(seed));
        }
        ["find-sectors", socket, sector_size] => {
            disk::find(socket.as_ref(), number(sector_size));
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
