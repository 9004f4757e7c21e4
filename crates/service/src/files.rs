use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough; and Erlang, which a private broker inherits this by, grows tables with the number.
const ENOUGH: u64 = 65_536;

/// Lets this process open more files, sockets among them, if it may: many systems begin with 1,024 and
/// allow far more. How many it may open then; `None` if there is no limit.
pub fn raise_open_files() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    let wanted = before.maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    if before.current.is_none_or(|current| current >= wanted) {
        return before.current;
    }
    let current = Some(wanted);
    match setrlimit(Resource::Nofile, Rlimit { current, ..before }) {
        Ok(()) => current,
        Err(_) => before.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_what_is_said() {
        let said = raise_open_files();
        assert_eq!(getrlimit(Resource::Nofile).current, said);
        assert_eq!(raise_open_files(), said, "once raised it stays");
    }
}
