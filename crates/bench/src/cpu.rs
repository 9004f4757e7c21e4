//! What the relay's processes have used.

use relay_testkit::Process;
use relay_tests::World;

/// CPU seconds of each process of a world so far, in words.
pub(crate) fn of(world: &World) -> String {
    let deliverers = world.deliverers.iter().map(|process| ("deliverer", process));
    let recorders = world.recorders.iter().map(|process| ("recorder", process));
    let processes = [("gateway", world.gateway())];
    let all = processes.into_iter().chain(deliverers).chain(recorders);
    let told: Vec<String> = all
        .map(|(name, process)| format!("{name} {:.2} s", seconds(process)))
        .collect();
    told.join(", ")
}

/// proc(5): user and system time are the 14th and 15th fields, in ticks of 10 ms; the name before
/// them may hold spaces.
fn seconds(process: &Process) -> f64 {
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2);
    ticks.map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / TICKS
}
