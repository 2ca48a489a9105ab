//! Keeps values in redb, a key-value store, and says whether they are there.

use std::path::Path;
use std::process::Command;

use redb::{Database, Durability, Error, ReadableDatabase, ReadableTable, TableDefinition};

const USAGE: &str = "Usage: guest-store put FILE sync|nosync COUNT COMMAND
                       keeps values of so many numbers, and after each has sh run COMMAND with the number as $1
       guest-store check FILE NUMBER
                       exits with 0 if the values of all numbers up to this one are kept";

const VALUES: TableDefinition<u32, &[u8]> = TableDefinition::new("values");
/// Values of a number.
const PARTS: u32 = 8;
/// Bytes of a value: those of a number take several pages.
const LENGTH: usize = 900;

fn value(key: u32) -> Vec<u8> {
    let word = key.wrapping_mul(0x9e37_79b9) | 1;
    word.to_le_bytes().into_iter().cycle().take(LENGTH).collect()
}

fn put(file: &Path, durability: Durability, count: u32, command: &str) -> Result<(), Error> {
    let database = Database::create(file)?;
    for number in 1..=count {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(durability)?;
        {
            let mut values = transaction.open_table(VALUES)?;
            for key in number * PARTS..(number + 1) * PARTS {
                values.insert(key, value(key).as_slice())?;
            }
        }
        transaction.commit()?;
        let number = number.to_string();
        let said = Command::new("sh").args(["-c", command, "sh", &number]).status()?;
        assert!(said.success(), "{command}: {said}");
    }
    Ok(())
}

/// What is wrong; `None`: nothing.
fn check(file: &Path, number: u32) -> Result<Option<String>, Error> {
    if !file.exists() {
        return Ok((number > 0).then(|| "there is no database".into()));
    }
    let database = Database::create(file)?;
    let transaction = database.begin_read()?;
    let values = match transaction.open_table(VALUES) {
        Err(redb::TableError::TableDoesNotExist(_)) if number == 0 => return Ok(None),
        values => values?,
    };
    let mut next = PARTS;
    for entry in values.iter()? {
        let (key, found) = entry?;
        if key.value() != next || found.value() != value(next) {
            return Ok(Some(format!("{} in place of {next}, or another value", key.value())));
        }
        next += 1;
    }
    let kept = next / PARTS - 1;
    Ok((next % PARTS != 0 || kept < number).then(|| format!("{kept} numbers are kept")))
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u32>().expect("a number");
    match arguments[..] {
        ["put", file, "sync" | "nosync", count, command] => {
            let durability = match arguments[2] {
                "sync" => Durability::Immediate,
                _ => Durability::None,
            };
            put(file.as_ref(), durability, number(count), command).expect("the values are kept");
        }
        ["check", file, text] => {
            let wrong = check(file.as_ref(), number(text));
            if let Some(wrong) = wrong.unwrap_or_else(|error| Some(error.to_string())) {
                eprintln!("{wrong}");
                std::process::exit(1);
            }
        }
        _ => panic!("{USAGE}"),
    }
}
