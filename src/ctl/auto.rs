//! `recovery.policy=auto`: when the controllers approve by themselves the plan that an operator would be asked to (decision 0017).
//!
//! What a plan says and whether it still holds is `recovery`, who may still answer `lease`. Here: what has to have been so, for how long,
//! before a plan is approved, and what is said of a partition meanwhile. Pure; [`Watch`] belongs to the controller leader and is made anew with every
//! leadership, so a change of controllers begins the waiting anew. Invariants:
//! - nothing is approved before every replica that has not said what it holds is beyond its lease, and then the very same plan has stood
//!   for `recovery.auto.delay.ms`: whoever comes back meanwhile makes another plan, or none;
//! - only a plan that an operator could approve: a sound survivor, and nobody who is alive and silent; nor anybody who is expected back;
//! - a partition whose plans the seals refuse again and again waits longer each time: every approval is kept for ever.

use super::command::Defaults;
use super::image::Image;
use super::lease::{Granted, Hindrance};
use super::recovery::{
    GroupPlan, Holding, Outcome, PartitionReport, Recovery, Standing, check_plan, is_lost, plan_id,
};
use crate::raftlog::core::Millis;
use crate::segment::GroupId;
use std::collections::BTreeMap;

/// What is written as the reason of such an approval.
pub const REASON: &str = "recovery.policy=auto";
/// How long a plan waits at least when a second one of its generation was refused; twice as long after each more.
const BACK_OFF_MS: Millis = 5_000;
/// Partitions that nobody leads because they were just made, or whose leader just died, are not spoken of as stuck.
const STUCK_MS: Millis = 2_000;
/// 85 minutes at most.
const DOUBLED: u32 = 10;

/// Groups that may be waiting for this: of topics that say so, and not approved yet.
pub fn candidates(image: &Image) -> impl Iterator<Item = GroupId> + '_ {
    let topics = image.topics.values().filter(|topic| topic.auto_since.is_some());
    let is_open = |approval: &super::recovery::Approval| is_lost(image, approval);
    let partitions = topics.flat_map(|topic| &topic.partitions);
    partitions.filter(move |p| p.recovery.as_deref().is_none_or(is_open)).map(|p| p.group)
}

/// A plan that may be approved later.
#[derive(Clone, Debug)]
struct Standby {
    id: String,
    since: Millis,
}

/// How long this plan waits because of those of the same generation that were refused before it.
fn back_off(image: &Image, plan: &GroupPlan) -> Millis {
    let is_refused = |r: &&Recovery| r.auto && matches!(r.outcome, Outcome::Refused { .. });
    let of_it = image.recoveries.iter().filter(|r| (r.plan.group, r.plan.from) == (plan.group, plan.from));
    match of_it.filter(is_refused).count() {
        0 | 1 => 0,
        refused => BACK_OFF_MS << u32::try_from(refused - 2).unwrap_or(DOUBLED).min(DOUBLED),
    }
}

/// What the controller leader keeps between looks.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    standby: BTreeMap<GroupId, Standby>,
    /// Those for which there is no plan, and since when.
    stuck: BTreeMap<GroupId, Millis>,
    said: BTreeMap<GroupId, String>,
}

impl Watch {
    /// Looks at how these groups stand; gives the plans to approve now.
    pub fn look(
        &mut self,
        image: &Image,
        defaults: &Defaults,
        granted: &Granted,
        found: &[(GroupId, PartitionReport, &[Holding])],
        now: Millis,
    ) -> Vec<GroupPlan> {
        self.retain(|group| image.groups.contains_key(&group));
        let mut due = Vec::new();
        for (group, report, holdings) in found {
            let said = match &report.standing {
                Standing::Recoverable { plan } => {
                    match self.consider(image, defaults, granted, (plan, holdings), now) {
                        Some(said) => Some(said),
                        None => {
                            due.push((**plan).clone());
                            // Whatever becomes of it, the next one waits anew.
                            self.standby.remove(group);
                            Some("goes on by itself".to_owned())
                        }
                    }
                }
                Standing::Stuck { reason } => {
                    let since = *self.stuck.entry(*group).or_insert(now);
                    (now >= since + STUCK_MS).then(|| format!("does not go on by itself: {reason}"))
                }
                _ => None,
            };
            if !matches!(report.standing, Standing::Recoverable { .. }) {
                self.standby.remove(group);
            }
            if !matches!(report.standing, Standing::Stuck { .. }) {
                self.stuck.remove(group);
            }
            match said {
                Some(said) => self.said.insert(*group, said),
                None => self.said.remove(group),
            };
        }
        due
    }

    /// Why this plan is not approved yet; none: it is to be.
    fn consider(
        &mut self,
        image: &Image,
        defaults: &Defaults,
        granted: &Granted,
        (plan, holdings): (&GroupPlan, &[Holding]),
        now: Millis,
    ) -> Option<String> {
        let Some((topic, _, placed)) = image.group(plan.group) else { return Some(String::new()) };
        // Several are approved together: one that would be refused must not take the others with it.
        if let Err(why) = check_plan(image, plan, true) {
            self.standby.remove(&plan.group);
            return Some(Hindrance::Lasting(why).text(now));
        }
        let is_survivor = |h: &&Holding| h.report.replica.node == plan.survivor && h.report.last == plan.base;
        let has_said =
            |replica: &crate::segment::ReplicaId| holdings.iter().any(|h| h.report.replica == *replica);
        let checked = match holdings.iter().find(is_survivor) {
            Some(best) => granted.check(image, (topic, placed), &best.report, &has_said, now),
            None => Err(Hindrance::Lasting("its survivor has not said what it holds".to_owned())),
        };
        if let Err(hindrance) = checked {
            self.standby.remove(&plan.group);
            return Some(hindrance.text(now));
        }
        let id = plan_id(std::slice::from_ref(plan));
        let standby =
            self.standby.entry(plan.group).or_insert_with(|| Standby { id: id.clone(), since: now });
        if standby.id != id {
            *standby = Standby { id, since: now };
        }
        let delay = image.topic_config(topic, defaults).recovery_auto_delay_ms;
        let due = standby.since.saturating_add(delay.max(back_off(image, plan)));
        (now < due).then(|| format!("goes on by itself in {} ms, unless brokers come back", due - now))
    }

    /// What is to be said of partitions that wait.
    pub fn said(&self) -> &BTreeMap<GroupId, String> {
        &self.said
    }

    /// Only these wait at all.
    pub fn retain(&mut self, waits: impl Fn(GroupId) -> bool) {
        self.standby.retain(|group, _| waits(*group));
        self.stuck.retain(|group, _| waits(*group));
        self.said.retain(|group, _| waits(*group));
    }
}
