//! `list`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::Error;
use crate::btt::{self, FoundArena};
use crate::cli::name::NamespaceArgs;
use crate::cli::size::Size;
use crate::nvdimm::{self, Abstraction, ClaimKind, Holder, Namespace, NvdimmFile};

/// List the namespaces of NVDIMM files, and who holds them
#[derive(Debug, Args)]
pub struct List {
    /// The NVDIMM files
    #[arg(required = true)]
    files: Vec<PathBuf>,

    #[command(flatten)]
    namespace: NamespaceArgs,

    /// Print JSON: an array of objects, one per namespace
    #[arg(short, long)]
    json: bool,
}

/// A namespace as it is listed. Names as in ndctl, where it has them.
#[derive(Debug, Serialize)]
struct Listed {
    file: PathBuf,
    dev: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    mode: &'static str,
    /// Bytes that can be used: of the sectors in sector mode, of the namespace otherwise.
    size: u64,
    raw_size: u64,
    /// Of the namespace; where it has none, of its BTT.
    uuid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sector_size: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    btt_version: Option<String>,
    /// What is wrong, if anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
    /// What the file is: fs-dax, device-dax or page-cache.
    backing: &'static str,
    holder: Option<ListedHolder>,
}

#[derive(Debug, Serialize)]
struct ListedHolder {
    pid: Option<u32>,
    program: Option<String>,
}

impl List {
    pub(super) fn run(&self) -> Result<(), Error> {
        let mut listed = Vec::new();
        for path in &self.files {
            let file = NvdimmFile::open(path, ClaimKind::Shared, self.namespace.label_size())?;
            if let Some(wanted) = &self.namespace.namespace {
                let selection = nvdimm::Selection::Named(wanted.clone());
                listed.push(self.describe(&file, file.select(&selection)?)?);
            } else {
                for namespace in file.namespaces() {
                    listed.push(self.describe(&file, namespace)?);
                }
            }
        }
        if self.json {
            println!("{}", super::to_json(&listed)?);
        } else {
            print_table(&listed);
        }
        Ok(())
    }

    fn describe(&self, file: &NvdimmFile, namespace: &Namespace) -> Result<Listed, Error> {
        let medium = file.map_to_look(namespace)?;
        let found = match namespace.abstraction {
            Abstraction::Pfn | Abstraction::Dax | Abstraction::Unknown(_) => {
                Err(btt::Error::NotFound)
            }
            _ => btt::find(&medium, self.namespace.btt_version.map(Into::into)),
        };
        let mut listed = Listed {
            file: file.path().into(),
            dev: namespace.device_name(),
            name: namespace.name.clone(),
            mode: namespace.abstraction.mode(),
            size: namespace.size(),
            raw_size: namespace.size(),
            uuid: namespace.uuid.map(|uuid| uuid.to_string()),
            sector_size: None,
            btt_version: None,
            problem: None,
            backing: medium.backing().name(),
            holder: Holder::search(file.file(), &namespace.range).map(ListedHolder::from),
        };
        match found {
            Ok(arenas) => listed.describe_btt(&arenas),
            Err(btt::Error::NotFound) => {}
            Err(error) => {
                listed.mode = "sector";
                listed.problem = Some(error.to_string());
            }
        }
        Ok(listed)
    }
}

impl Listed {
    fn describe_btt(&mut self, arenas: &[FoundArena]) {
        let sectors: u64 =
            arenas.iter().map(|arena| u64::from(arena.info.geometry.external_nlba)).sum();
        let info = &arenas[0].info;
        let lba_size = info.geometry.lba_size;
        self.mode = "sector";
        self.size = sectors * u64::from(lba_size.data());
        self.uuid.get_or_insert_with(|| info.uuid.to_string());
        self.sector_size = Some(lba_size.external());
        self.btt_version = Some(info.version.to_string());
        self.problem = arenas.iter().enumerate().find_map(|(number, arena)| {
            problem_of(arena).map(|problem| format!("arena {number}: {problem}"))
        });
    }
}

fn problem_of(arena: &FoundArena) -> Option<String> {
    if arena.info.error {
        return Some("read-only after an error".into());
    }
    match arena.copies {
        btt::Copies::Intact => None,
        btt::Copies::Differ => Some("the two info blocks differ".into()),
        btt::Copies::OnlyPrimary(fault) => Some(format!("second info block: {fault}")),
        btt::Copies::OnlyBackup(fault) => Some(format!("first info block: {fault}")),
    }
}

impl From<Holder> for ListedHolder {
    fn from(holder: Holder) -> ListedHolder {
        match holder {
            Holder::Process { pid, program } => {
                ListedHolder { pid: Some(pid), program: Some(program) }
            }
            Holder::Unknown => ListedHolder { pid: None, program: None },
        }
    }
}

/// Prints one line per namespace, in columns.
fn print_table(listed: &[Listed]) {
    let header = ["FILE", "NAMESPACE", "MODE", "SIZE", "SECTOR", "BTT", "BACKING", "HELD BY"];
    let rows: Vec<[String; 8]> = listed.iter().map(Listed::row).collect();
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([header[column].len()]).max().unwrap_or(0)
        })
        .collect();
    let print = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    };
    print(&header);
    for (row, namespace) in rows.iter().zip(listed) {
        print(&row.each_ref().map(String::as_str));
        if let Some(problem) = &namespace.problem {
            println!("  problem: {problem}; see nvdimmctl check-namespace");
        }
    }
}

impl Listed {
    fn row(&self) -> [String; 8] {
        let dash = || "-".to_string();
        let holder = self.holder.as_ref().map_or_else(dash, |holder| match holder {
            ListedHolder { pid: Some(pid), program: Some(program) } => format!("{program} ({pid})"),
            _ => "somebody".into(),
        });
        let name = if self.name.is_empty() {
            self.dev.clone()
        } else {
            format!("{} {}", self.dev, self.name)
        };
        [
            display(&self.file),
            name,
            self.mode.into(),
            Size(self.size).to_string(),
            self.sector_size.map_or_else(dash, |size| size.to_string()),
            self.btt_version.clone().unwrap_or_else(dash),
            self.backing.into(),
            holder,
        ]
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
