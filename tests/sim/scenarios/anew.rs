//! Replicas that hold what tombstones deleted that are gone elsewhere: they can neither follow nor be made whole, and begin anew
//! (docs/decisions/0022).

use super::{LONG, met, plan, scenario};
use crate::world::{MS, Time, World};
use kontiki::segment::{GroupId, Offset, ReplicaId};

impl World {
    /// As passes would leave a copy: all that is committed is clean, and tombstones in it may be gone.
    fn leaves_tombstones_out(&mut self, n: usize, group: GroupId) -> Offset {
        let commit = self.sees(n, group).commit;
        let engine = self.nodes[n].process.as_mut().expect("it runs").shard.engine();
        let store = engine.store();
        let end = store.meta_at(group, kontiki::segment::Index(commit)).expect("it is there").next_offset();
        store.note_dropped(group, end).expect("the disk is sound");
        store.note_cleaned(group, end).expect("the disk is sound");
        end
    }

    /// The replica that the controllers have on this node.
    fn placed_on(&self, n: usize, group: GroupId) -> ReplicaId {
        let image = self.newest_image();
        let (_, _, placed) = image.group(group).expect("it is there");
        let is_it = |replica: &&ReplicaId| crate::net::index_of(replica.node) == n;
        *placed.replicas.iter().find(is_it).expect("it is placed there")
    }

    fn runs_on(&mut self, n: usize, group: GroupId) -> Option<ReplicaId> {
        self.nodes[n].process.as_mut()?.shard.engine().core(group).map(|core| core.replica())
    }

    fn stands_apart(&mut self, n: usize, group: GroupId) -> bool {
        let Some(p) = self.nodes[n].process.as_mut() else { return false };
        p.shard.engine().core(group).is_some_and(|core| core.apart().is_some())
    }

    fn is_three(&mut self, group: GroupId) -> bool {
        self.plan.brokers().iter().all(|n| {
            let is_it = self.runs_on(*n, group) == Some(self.placed_on(*n, group));
            is_it && self.view(*n, group).is_some_and(|view| view.voters.len() == 3 && view.old.is_empty())
        })
    }
}

/// C was away for a moment, or for so long that it lost its vote, and the others leave tombstones out that lie behind its end. It takes
/// nothing, loses its vote if it has one, and gets another id; the group is three again.
fn member_that_lacks_tombstones(world: &mut World) -> Time {
    let group = world.begin();
    let (left, away) = if world.either() {
        let (leader, other, away) = world.left_as_two(group);
        ([leader, other], away)
    } else {
        let leader = world.leader_of(group).expect("it goes on");
        let others = world.other_brokers(&[leader]);
        world.end_somehow(others[1]);
        ([leader, others[0]], others[1])
    };
    world.writes_go_on();
    let ends = left.map(|n| world.leaves_tombstones_out(n, group));
    let was = world.placed_on(away, group);
    world.start_later(away, MS);
    world.run_until("it takes nothing", LONG, |world| world.stands_apart(away, group));
    let leader = world.leader_of(group).expect("somebody has it");
    let votes = world.sees(leader, group).voters.contains(&away);
    world.marks.hit(if votes { "a voter begins anew" } else { "a learner begins anew" });
    let last = world.sees(away, group).last;
    world.run_until("it has another id", LONG, |world| {
        let is_old = world.runs_on(away, group) == Some(was);
        assert!(!is_old || world.sees(away, group).last == last, "it takes what it may not");
        world.placed_on(away, group) != was
    });
    world.run_until("the group is three again", LONG, |world| world.is_three(group));
    let cleaned = world.nodes[away].process.as_mut().expect("it runs").shard.engine().store().cleaned(group);
    let cleaned = cleaned.expect("it is there");
    assert!(ends.contains(&cleaned.dropped) || ends.contains(&cleaned.clean), "{cleaned:?}, not {ends:?}");
    world.writes_go_on();
    world.finish()
}

#[test]
fn member_that_lacks_what_tombstones_deleted_begins_anew() {
    let name = "anew::member_that_lacks_what_tombstones_deleted_begins_anew";
    let report = scenario(name, plan, member_that_lacks_tombstones);
    met(&report, &["a learner begins anew", "a voter begins anew"]);
}

/// One of them is all that is left beside C, which ends before what it lacks: no copy is given up with it.
fn member_beside_one(world: &mut World) -> Time {
    let group = world.begin();
    let (leader, other, away) = world.left_as_two(group);
    world.writes_go_on();
    for n in [leader, other] {
        world.leaves_tombstones_out(n, group);
    }
    let was = world.placed_on(away, group);
    world.end_somehow(other);
    world.run_until("one goes on alone", LONG, |world| world.leads_alone(leader, group, 1));
    world.start_later(away, MS);
    world.run_until("it takes nothing", LONG, |world| world.stands_apart(away, group));
    world.run_until("it votes under another id", LONG, |world| {
        let is_anew = world.runs_on(away, group).is_some_and(|replica| replica != was);
        is_anew && world.view(away, group).is_some_and(|view| view.voters.contains(&away))
    });
    world.start_later(other, MS);
    world.run_until("the group is three again", LONG, |world| world.is_three(group));
    world.writes_go_on();
    world.finish()
}

#[test]
fn member_that_lacks_what_tombstones_deleted_begins_anew_beside_a_single_one() {
    let name = "anew::member_that_lacks_what_tombstones_deleted_begins_anew_beside_a_single_one";
    scenario(name, plan, member_beside_one);
}
