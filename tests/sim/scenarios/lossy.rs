//! Majorities that are lost at once: what an operator has decided, and what the others hold beyond it (safety.md P4, F18, F24).

use super::{LONG, plan, scenario};
use crate::client::{Ask, Reply, Work};
use crate::world::{MS, SECOND, Time, World};
use kontiki::ctl::command::Command as CtlCommand;
use kontiki::ctl::recovery::{GroupPlan, Outcome, plan_id};
use kontiki::segment::GroupId;
use std::collections::BTreeMap;

impl World {
    /// Two of three acknowledge what the third does not have: it, and the two.
    fn left_behind(&mut self, group: GroupId) -> (usize, [usize; 2]) {
        let leader = self.leader_of(group).expect("it is led");
        let others = self.other_brokers(&[leader]);
        let a = self.rng.pick(&others).expect("two");
        let rest = self.other_brokers(&[a]);
        self.cut_off(a, &rest);
        let (known, acks) = (self.sees(a, group).last.index.0, self.check.acks);
        self.run_until("two of three go on", LONG, |world| {
            world.committed(group) > known + 10 && world.check.acks > acks + 10
        });
        (a, [rest[0], rest[1]])
    }

    /// What an operator would be shown now.
    fn plans_now(&mut self) -> Vec<GroupPlan> {
        let image = self.newest_image();
        self.plans(&image).0
    }
}

fn approval(plans: Vec<GroupPlan>) -> CtlCommand {
    CtlCommand::Recover { id: plan_id(&plans), reason: String::new(), at_ms: 0, plans, auto: false }
}

/// The survivor lags; the two others, lost at once, come back with more, one after the other: what they hold beyond it is kept aside, byte
/// for byte, and counts nowhere (F24, P6).
fn fenced_peers_hold_more(world: &mut World) -> Time {
    let group = world.begin();
    let (a, gone) = world.left_behind(group);
    let first_lost = world.sees(a, group).last.index.0 + 1;
    gone.iter().for_each(|n| world.end_somehow(*n));
    world.net.blocked.clear();
    world.recover_until(a, |world| world.leads_alone(a, group, 1));
    assert!(world.check.losses(group) == 1, "nothing was lost: no danger");
    assert!(world.marks.0.contains_key("unclean generation lost acknowledged records"), "no danger");
    world.new_writer();
    world.writes_go_on();
    assert!(world.committed(group) > first_lost, "other records stand in the place of those that were lost");
    for n in gone {
        world.start_later(n, MS);
        let wait = world.rng.below(4 * SECOND);
        world.run_for(wait);
    }
    let took = world.finish();
    assert!(
        world.marks.0.contains_key("entries of an earlier generation set aside"),
        "what they held is kept"
    );
    let image = world.newest_image();
    let verified = image.recoveries.iter().any(|known| matches!(known.outcome, Outcome::Verified { .. }));
    assert!(verified, "{:?}", image.recoveries);
    took
}

#[test]
fn f24_fenced_peers_hold_more_than_the_survivor() {
    scenario("lossy::f24_fenced_peers_hold_more_than_the_survivor", plan, fenced_peers_hold_more);
}

/// One plan was made when A alone was there, another when B was, and both are approved at once: one generation begins, in one way, and
/// only as the approval that stands last says (F2 schedule 4, decision 0011).
fn two_plans(world: &mut World) -> Time {
    let group = world.begin();
    let (a, gone) = world.left_behind(group);
    let [b, c] = gone;
    world.plan.brokers().into_iter().for_each(|n| world.end(n, true));
    world.net.blocked.clear();
    let mut plans = Vec::new();
    for n in [a, b] {
        world.start_later(n, MS);
        let mut found = Vec::new();
        world.run_until("an operator is shown a plan", LONG, |world| {
            found = world.plans_now();
            !found.is_empty() && world.nodes[n].process.as_ref().is_some_and(|p| p.shard.status().registered)
        });
        plans.push(found);
        if n == a {
            world.end(n, true);
        }
    }
    assert!(plans[0][0].survivor != plans[1][0].survivor, "no danger: {plans:?}");
    let is_back = world.either();
    if is_back {
        world.start_later(a, MS);
    }
    let operators: Vec<usize> = (0..2).map(|_| world.add_client(Work::Manual(BTreeMap::new()))).collect();
    let last = world.rng.below(2) as usize;
    let mut asked = Vec::new();
    for which in [1 - last, last] {
        let id = world.ask(operators[which], b, Ask::Controller(approval(plans[which].clone())));
        asked.push((which, id));
        let wait = world.rng.below(5 * MS);
        world.run_for(wait);
    }
    world.run_for(3 * SECOND);
    let mut taken = 0;
    for (which, id) in asked {
        let Work::Manual(answers) = &mut world.clients[operators[which]].work else { continue };
        match answers.remove(&id) {
            Some(Reply::Controller(Ok(_))) => taken += 1,
            Some(Reply::Controller(Err(_))) => world.marks.hit("second plan refused"),
            _ => {}
        }
    }
    if taken == 2 {
        world.marks.hit("two plans approved");
    }
    world.start_later(a, MS);
    world.recover_until(b, |world| world.leader_of(group).is_some());
    world.new_writer();
    world.writes_go_on();
    world.start_later(c, MS);
    let took = world.finish();
    let image = world.newest_image();
    for generation in 1..=world.decided(group) {
        let by = |outcome: &Outcome| matches!(outcome, Outcome::Decided { .. } | Outcome::Verified { .. });
        let of = |known: &&kontiki::ctl::recovery::Recovery| {
            by(&known.outcome) && known.plan.from + 1 == generation
        };
        let count = image.recoveries.iter().filter(of).count();
        assert!(
            count <= 1,
            "generation {generation} was decided by {count} approvals: {:?}",
            image.recoveries
        );
    }
    took
}

#[test]
fn two_plans_submitted_at_once_open_one_generation() {
    scenario("lossy::two_plans_submitted_at_once_open_one_generation", plan, two_plans);
}
