//! Where the programs of PostgreSQL are, if they are installed.
//!
//! The standard library alone: `xtask` compiles this file too, so that it installs the server exactly
//! when the server would not be found.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// What is used of it; all of them are in one folder.
const PROGRAMS: [&str; 3] = ["postgres", "initdb", "psql"];

/// Where Debian and Ubuntu have a folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The folder of the programs: the newest version there, or the first on the PATH.
pub(crate) fn installed() -> Option<PathBuf> {
    newest(Path::new(VERSIONS)).or_else(|| {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).find(|folder| is_complete(folder))
    })
}

/// Whether all the programs are in this folder.
pub(crate) fn is_complete(folder: &Path) -> bool {
    PROGRAMS.iter().all(|program| folder.join(program).is_file())
}

fn newest(versions: &Path) -> Option<PathBuf> {
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let mut numbers: Vec<_> = fs::read_dir(versions)
        .ok()?
        .flatten()
        .filter_map(number)
        .collect();
    numbers.sort_unstable();
    let folders = numbers.iter().rev();
    folders
        .map(|number| versions.join(number.to_string()).join("bin"))
        .find(|folder| is_complete(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_complete_version_is_taken() {
        let versions = env::temp_dir().join(format!("relay-postgres-versions-{}", std::process::id()));
        let programs = [
            ("9", &PROGRAMS[..]),
            ("15", &PROGRAMS),
            ("16", &["psql"]),
            ("x", &PROGRAMS),
        ];
        for (version, programs) in programs {
            let folder = versions.join(version).join("bin");
            fs::create_dir_all(&folder).unwrap();
            for program in programs {
                fs::write(folder.join(program), "").unwrap();
            }
        }
        assert_eq!(newest(&versions), Some(versions.join("15/bin")));
        fs::remove_dir_all(&versions).unwrap();
        assert_eq!(newest(&versions), None);
    }
}
