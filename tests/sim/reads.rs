//! A leader that is cut off from the others, and not from its clients: for some time it takes itself for the leader, and what it says of
//! its end must not be older than what the others have acknowledged meanwhile (safety.md F17).

use crate::client::Ask;
use crate::labs::servers;
use crate::plan::Plan;
use crate::seeds::{Budget, over_seeds};
use crate::world::{MS, SECOND, Time, World};

/// Seeds of the default run.
const SEEDS: u64 = if cfg!(debug_assertions) { 1 } else { 10 };

pub fn plan(seed: u64) -> Plan {
    servers(seed, 3, 1)
}

/// Leaders are cut off one after the other; `Check::latest` judges what they answer.
pub fn story(world: &mut World) -> Time {
    world.set_up();
    let mut lab = world.lab();
    world.one(&mut lab, 3, 0);
    for _ in 0..4 {
        let old = world.check_leader_now(&lab);
        world.disconnect(&mut lab, old);
        let until = world.time + 3 * SECOND;
        while world.time < until {
            world.ask(lab.clerk, old, Ask::Latest { group: lab.group });
            if let Some(new) = world.leader_of(lab.group).filter(|new| *new != old) {
                world.start_on(&mut lab, new);
            }
            world.run_for(10 * MS);
        }
        world.reconnect(&mut lab, old);
        world.one(&mut lab, 3, 0);
    }
    0
}

#[test]
fn cut_off_leader_tells_no_stale_end() {
    let name = "reads::cut_off_leader_tells_no_stale_end";
    let report = over_seeds(name, Budget::Seeds(SEEDS), plan, story);
    assert!(report.acks >= report.runs * 100, "nobody wrote meanwhile: {report:?}");
}
