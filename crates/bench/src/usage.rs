//! What processes have used, by proc(5).

use std::fs;

/// CPU time and memory of some processes, each with all that it started.
pub(crate) struct Usage(Vec<(&'static str, Process)>);

#[derive(Clone, Copy)]
struct Process {
    pid: u32,
    cpu_seconds: f64,
}

impl Usage {
    /// As it is now.
    pub(crate) fn of(processes: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        let read = |(name, pid)| {
            let family = [vec![pid], descendants(pid)].concat();
            let cpu_seconds = family.into_iter().filter_map(cpu_seconds).sum();
            (name, Process { pid, cpu_seconds })
        };
        Self(processes.into_iter().map(read).collect())
    }

    /// CPU seconds of each since an earlier look.
    pub(crate) fn cpu_since(&self, earlier: &Self) -> Vec<(&'static str, f64)> {
        let spent = |((name, now), (_, before)): (&(_, Process), &(_, Process))| {
            (*name, now.cpu_seconds - before.cpu_seconds)
        };
        self.0.iter().zip(&earlier.0).map(spent).collect()
    }

    /// The most memory each has ever held, in MiB.
    pub(crate) fn peak_memory(&self) -> Vec<(&'static str, f64)> {
        let peak = |(name, process): &(_, Process)| (*name, memory(process.pid, "VmHWM"));
        self.0.iter().map(peak).collect()
    }
}

/// Memory of one process in MiB: `VmRSS` now, or `VmHWM` at its peak.
pub(crate) fn memory(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let kib = line.trim_matches(|c: char| !c.is_ascii_digit());
    kib.parse::<f64>().unwrap() / 1024.0
}

/// Every process that this one started, and those started by them.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u32)> = pids
        .filter_map(|pid: u32| Some((pid, fields(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&of) = family.get(next) {
        let children = parents.iter().filter(|(_, parent)| *parent == of);
        family.extend(children.map(|(pid, _)| pid));
        next += 1;
    }
    family.split_off(1)
}

/// User and system time are the 14th and 15th fields, in ticks of 10 ms; `None` if it has ended.
fn cpu_seconds(pid: u32) -> Option<f64> {
    const TICKS: f64 = 100.0;
    let fields = fields(pid)?;
    let ticks = fields.get(11..13)?.iter().map(|field| field.parse::<f64>());
    Some(ticks.sum::<Result<f64, _>>().ok()? / TICKS)
}

/// The fields behind the name, which may hold spaces: the first of these is the third of all.
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_time_and_knows_its_children() {
        let pid = std::process::id();
        assert!(memory(pid, "VmHWM") >= memory(pid, "VmRSS"));
        assert!(memory(pid, "VmRSS") > 0.5);
        let before = Usage::of([("test", pid)]);
        let spin = std::time::Instant::now();
        while spin.elapsed().as_millis() < 50 {}
        let spent = Usage::of([("test", pid)]).cpu_since(&before);
        assert!(spent[0].1 > 0.0 && spent[0].1 < 10.0, "{spent:?}");

        let mut child = std::process::Command::new("sh")
            .args(["-c", "sleep 60 & wait"])
            .spawn()
            .unwrap();
        while descendants(pid).len() < 2 {}
        let mut grandchildren = descendants(child.id());
        assert_eq!(grandchildren.len(), 1);
        let grandchild = grandchildren.remove(0);
        let killed = std::process::Command::new("kill")
            .arg(grandchild.to_string())
            .status();
        assert!(killed.unwrap().success());
        child.wait().unwrap();
    }
}
