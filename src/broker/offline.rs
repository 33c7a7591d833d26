//! `kontiki controller recover`: the controllers' group, which lost its quorum for good, goes on from the directories of stopped nodes.
//!
//! [`gather`] locks and reads them, and changes nothing; [`Gathered::execute`] has the product's own engine seal every copy that counts, and
//! the survivor take over, each step durable before the next begins. Not here: what the copies prove and who goes on (`raftlog::offline`),
//! what is printed (`bin/controller.rs`), going on with a loss that was accepted (`accepting`). Invariants:
//! - nothing is written before the plan of that number was approved, and none that does not follow from what is on the disks now;
//! - no generation is opened before every copy that proves it is sealed durably: no other survivor can follow from any of them;
//! - the new generation, its first entry and the audit record of it become durable together, or none of them;
//! - a crash at any point leaves what the same command, repeated, goes on from.

mod accepting;

pub use accepting::{Loss, Risk};

use crate::ctl::offline::ControllerRecovery;
use crate::ctl::record::{Batch, Record};
use crate::mutation::{Mutation, on};
use crate::raftlog::core::GenerationEffect;
use crate::raftlog::engine::{Disk, Engine, EngineConfig, GroupEvent, Net, Proposal};
use crate::raftlog::generation::{Decision, SealReport};
pub use crate::raftlog::heir::of as heir_of;
pub use crate::raftlog::message::Configuration;
use crate::raftlog::offline::{self, Held, Judgement};
pub use crate::raftlog::offline::{Standing, Verdict, nodes, unsound};
pub use crate::segment::NodeId;
use crate::segment::fs::Fs;
use crate::segment::fs::posix::PosixFs;
use crate::segment::{
    self, EntryKind, Generation, GroupId, Identity, LogId, Looked, Round, StoreOptions, Writer,
};
use bytes::{Bytes, BytesMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

/// The controllers' group.
const CONTROLLERS: GroupId = GroupId(0);
/// The next start makes one of the usual size again: hardly anything is written here.
const JOURNAL_BYTES: u64 = 1 << 20;
/// Rounds that one step can take at most; more would be an engine that does not come to rest.
const ROUNDS: usize = 64;

/// Why nothing was done, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A directory cannot be used.
    #[error(transparent)]
    Directory(#[from] segment::Error),
    /// It is a broker's that never joined, or a new one.
    #[error("{} holds no copy of the controllers' log", .0.display())]
    NoCopy(PathBuf),
    /// Directories of different clusters.
    #[error("{} belongs to cluster {}, {} to cluster {}", .0.display(), .1, .2.display(), .3)]
    Clusters(PathBuf, String, PathBuf, String),
    /// The same directory twice.
    #[error("{} and {} are the same directory", .0.display(), .1.display())]
    Same(PathBuf, PathBuf),
    /// The same replica twice.
    #[error("{} and {} are copies of the same directory, of node {node}; one of them may count, not both", .0.display(), .1.display(), node = .2)]
    Twice(PathBuf, PathBuf, NodeId),
    /// What was approved is not what follows from the directories.
    #[error(
        "plan {approved} was not carried out: from these directories, as they are now, follows plan {now}"
    )]
    Drifted {
        /// What was asked for.
        approved: String,
        /// What there is.
        now: String,
    },
    /// It may not be carried out.
    #[error("{0}")]
    Refused(String),
    /// A step did not do what it should have.
    #[error("{}: {what}", .dir.display())]
    Failed {
        /// Where.
        dir: PathBuf,
        /// What.
        what: String,
    },
}

/// One directory, as it was found.
pub struct Seen {
    /// Where it is.
    pub dir: PathBuf,
    /// Whose it is.
    pub node: NodeId,
    /// The copy in it.
    pub held: Held,
    /// When anything in its journal was last written, milliseconds since 1970, if that is known: entries themselves have no time.
    pub written_ms: Option<i64>,
    /// What is wrong with the directory.
    pub notes: Vec<String>,
    looked: Looked,
}

/// Directories of stopped nodes of one cluster, locked.
pub struct Gathered {
    fs: Arc<dyn Fs>,
    /// The copies, in the order given.
    pub copies: Vec<Seen>,
    /// What they prove.
    pub judged: Judgement,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The node that goes on when it is started.
    pub survivor: NodeId,
    /// Its directory.
    pub dir: PathBuf,
    /// The generation that ended.
    pub from: Generation,
    /// The one that began.
    pub generation: Generation,
    /// Where the old one ended.
    pub base: LogId,
    /// The other copies that were ended, by node: they are the only ones of their nodes that may be started, or empty disks.
    pub ended: Vec<(NodeId, PathBuf)>,
}

/// Reads the controllers' log in these directories, and judges the copies. Nothing is changed; the directories stay locked.
///
/// # Errors
/// One is in use, cannot be read or holds no copy; two are of different clusters, or the same one twice.
pub fn gather(dirs: &[PathBuf]) -> Result<Gathered, Trouble> {
    // Under two names it would be in use, by ourselves.
    let real: Vec<PathBuf> = dirs.iter().map(|dir| dir.canonicalize().unwrap_or(dir.clone())).collect();
    for (at, dir) in real.iter().enumerate() {
        if let Some(before) = real[..at].iter().position(|other| other == dir) {
            return Err(Trouble::Same(dirs[before].clone(), dirs[at].clone()));
        }
    }
    gather_on(&(Arc::new(PosixFs) as Arc<dyn Fs>), dirs)
}

/// [`gather`] on any file system.
///
/// # Errors
/// As [`gather`].
pub fn gather_on(fs: &Arc<dyn Fs>, dirs: &[PathBuf]) -> Result<Gathered, Trouble> {
    let mut copies: Vec<Seen> = Vec::new();
    for dir in dirs {
        let looked = segment::look_on(&**fs, dir, CONTROLLERS)?;
        let Some(found) = &looked.group else { return Err(Trouble::NoCopy(dir.clone())) };
        let held = Held::of(found);
        for other in &copies {
            if other.held.report.replica == held.report.replica {
                return Err(Trouble::Twice(other.dir.clone(), dir.clone(), looked.node));
            }
            if let (Some(a), Some(b)) = (&other.looked.cluster, &looked.cluster)
                && a != b
            {
                return Err(Trouble::Clusters(other.dir.clone(), a.clone(), dir.clone(), b.clone()));
            }
        }
        let (node, notes) = (looked.node, looked.notes.clone());
        copies.push(Seen { dir: dir.clone(), node, held, written_ms: last_write(dir), notes, looked });
    }
    let held: Vec<Held> = copies.iter().map(|seen| seen.held.clone()).collect();
    let judged = offline::judge(&held);
    Ok(Gathered { fs: fs.clone(), copies, judged })
}

/// When a journal file of the directory last changed. Not a promise: a copied directory may bear the time of the copy.
fn last_write(dir: &Path) -> Option<i64> {
    let files = std::fs::read_dir(dir.join("journal")).ok()?;
    let modified = files.filter_map(|file| file.ok()?.metadata().ok()?.modified().ok()).max()?;
    let since = modified.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_millis()).ok()
}

impl Gathered {
    /// The cluster, if a directory says which.
    pub fn cluster(&self) -> Option<&str> {
        self.copies.iter().find_map(|seen| seen.looked.cluster.as_deref())
    }

    /// Number of the plan, as operators name it; none if there is nothing to be carried out.
    pub fn plan(&self) -> Option<String> {
        matches!(self.judged.verdict, Verdict::Empty | Verdict::UnlessHeir)
            .then(|| format!("{:016x}", self.judged.plan))
    }

    /// The copy that would go on.
    pub fn best(&self) -> Option<&Seen> {
        self.judged.best.map(|at| &self.copies[at])
    }

    /// Carries out the plan of this number. `heir_gone`: the operator's word that no missing heir ever went on alone, or will.
    ///
    /// # Errors
    /// Another plan follows from the directories, or it may not be carried out: nothing was changed. Or a step failed: the same
    /// command goes on from there.
    pub fn execute(self, approved: &str, heir_gone: bool, reason: &str, at_ms: i64) -> Result<Done, Trouble> {
        let plan = self.plan().ok_or_else(|| Trouble::Refused(self.why_not()))?;
        if approved != plan {
            return Err(Trouble::Drifted { approved: approved.to_owned(), now: plan });
        }
        if self.judged.verdict == Verdict::UnlessHeir && !heir_gone {
            return Err(Trouble::Refused(self.why_not()));
        }
        let Self { fs, copies, judged } = self;
        let held: Vec<Held> = copies.iter().map(|seen| seen.held.clone()).collect();
        let audit = audit_of(&held, &judged, &plan, reason, at_ms);
        let counts = |at: usize| matches!(judged.standings[at], Standing::Best | Standing::Counts);
        let best = judged.best.expect("a plan has a survivor");
        let mut opened = open_all(&fs, copies, &held, &counts)?;
        // The survivor last: as long as it is not sealed nothing can have been opened.
        opened.sort_by_key(|(at, _)| *at == best);
        let mut sealed = Vec::new();
        for (at, stopped) in &mut opened {
            if on(Mutation::SealSurvivorAlone) && *at != best {
                sealed.push(SealReport { plan: judged.plan, ..held[*at].report.clone() });
                continue;
            }
            sealed.push(stopped.seal(judged.from, judged.plan)?);
        }
        let (_, survivor) = opened.last_mut().expect("the survivor is one that counts");
        let decision = offline::decide(&held, &judged, &sealed, heir_gone);
        let decision = decision.ok_or_else(|| survivor.failed("what was sealed is not what was judged"))?;
        survivor.take_over(&decision, audit)?;
        done(opened, &held, judged.from, &decision)
    }

    /// Why nothing is carried out.
    pub fn why_not(&self) -> String {
        let nodes = |replicas: &[segment::ReplicaId]| {
            let nodes = offline::nodes(replicas);
            nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let judged = &self.judged;
        match judged.verdict {
            Verdict::Nothing => {
                "no copy here can go on: none is sound, of the newest generation, and a controller's".into()
            }
            Verdict::Alone => {
                let node = self.best().map(|seen| seen.node).unwrap_or_default();
                format!("nothing is to be done: node {node} is the only voter of its generation; start it")
            }
            Verdict::Ended { plan } => format!(
                "copies here were ended by plan {plan:016x}, whose survivor may have gone on, and the others alone prove nothing: give exactly \
                 the directories of that plan, or more of nodes that it did not end"
            ),
            Verdict::Open => format!(
                "the loss is not provably empty: nodes {} may have committed what none of these copies holds, or go on too",
                nodes(&judged.missing)
            ),
            Verdict::UnlessHeir => {
                let given = |seen: &&Seen| judged.heirs.iter().any(|heir| heir.node == seen.node);
                let how = match self.copies.iter().find(given) {
                    Some(seen) => format!("cannot be counted on ({})", seen.dir.display()),
                    None => "is not here".to_owned(),
                };
                format!(
                    "node {}, the heir of the controllers' pair, {how} and may have gone on alone",
                    nodes(&judged.heirs)
                )
            }
            Verdict::Empty => "it was not asked for".into(),
        }
    }
}

/// Opens those of these copies that are wanted, as a start would.
fn open_all(
    fs: &Arc<dyn Fs>,
    copies: Vec<Seen>,
    held: &[Held],
    is_wanted: &dyn Fn(usize) -> bool,
) -> Result<Vec<(usize, Stopped)>, Trouble> {
    let mut opened: Vec<(usize, Stopped)> = Vec::new();
    for (at, seen) in copies.into_iter().enumerate() {
        // The lock of looking goes, and the one of writing comes: what is sealed after this is compared with what was seen.
        let Seen { dir, node, looked, .. } = seen;
        drop(looked);
        if is_wanted(at) {
            opened.push((at, Stopped::open(fs, dir, node)?));
        }
    }
    // Nothing is sealed unless all is what was looked at: a seal cannot be taken back.
    opened.iter().try_for_each(|(at, stopped)| stopped.check(&held[*at]))?;
    Ok(opened)
}

/// All that was opened is closed; the survivor is the last of them.
fn done(
    opened: Vec<(usize, Stopped)>,
    held: &[Held],
    from: Generation,
    decision: &Decision,
) -> Result<Done, Trouble> {
    let node = |at: usize| held[at].report.replica.node;
    let (survivor, ended) = opened.split_last().expect("somebody goes on");
    let done = Done {
        survivor: node(survivor.0),
        dir: survivor.1.dir.clone(),
        from,
        generation: decision.generation,
        base: decision.opening.base,
        ended: ended.iter().map(|(at, other)| (node(*at), other.dir.clone())).collect(),
    };
    opened.into_iter().try_for_each(|(_, stopped)| stopped.close())?;
    Ok(done)
}

fn audit_of(held: &[Held], judged: &Judgement, id: &str, reason: &str, at_ms: i64) -> ControllerRecovery {
    let survivor = judged.best.map(|at| &held[at].report).expect("a plan has a survivor");
    let counts = |at: &usize| matches!(judged.standings[*at], Standing::Best | Standing::Counts);
    let at_hand = (0..held.len()).filter(counts).map(|at| &held[at].report);
    ControllerRecovery {
        id: id.to_owned(),
        reason: reason.to_owned(),
        at_ms,
        from: judged.from.0,
        generation: offline::next(judged).0,
        survivor: survivor.replica.node,
        base: survivor.last,
        copies: at_hand.map(|report| (report.replica.node, report.last)).collect(),
        missing: offline::nodes(&judged.missing),
        heirs_gone: offline::nodes(&judged.heirs),
        lost: Vec::new(),
    }
}

/// The group's engine over a stopped node's directory: nobody is spoken to, and no time passes.
struct Stopped {
    dir: PathBuf,
    engine: Engine,
    writer: Writer,
}

/// Peers of a stopped node.
struct Nobody;

impl Net for Nobody {
    fn send(&mut self, _: NodeId, _: Vec<Bytes>) -> bool {
        false
    }

    fn queued_bytes(&self, _: NodeId) -> usize {
        0
    }
}

/// The round that is to be made durable at once.
struct OneRound(Option<Round>);

impl Disk for OneRound {
    fn submit(&mut self, round: Round) {
        self.0 = Some(round);
    }
}

impl Stopped {
    fn open(fs: &Arc<dyn Fs>, dir: PathBuf, node: NodeId) -> Result<Self, Trouble> {
        let mut options = StoreOptions::new(dir.clone(), Identity { node, cluster: None });
        options.journal_file_bytes = JOURNAL_BYTES;
        let opened = segment::open_on(fs.clone(), options)?;
        let config = EngineConfig { node, boot: 0, core: offline::core_config(), seed: 0 };
        let mut engine = Engine::new(config, opened.store, 0);
        // The others are partitions', and none of our business.
        let found = opened.groups.into_iter().find(|found| found.group == CONTROLLERS);
        engine.adopt(0, found.ok_or_else(|| Trouble::NoCopy(dir.clone()))?);
        Ok(Self { dir, engine, writer: opened.writer })
    }

    fn failed(&self, what: impl Into<String>) -> Trouble {
        Trouble::Failed { dir: self.dir.clone(), what: what.into() }
    }

    /// Makes everything durable that is still to be, and answers what happened.
    fn settle(&mut self) -> Result<Vec<GroupEvent>, Trouble> {
        let mut events = Vec::new();
        for _ in 0..ROUNDS {
            let mut disk = OneRound(None);
            self.engine.flush(0, &mut Nobody, &mut disk);
            let Some(round) = disk.0 else {
                self.engine.take_events(&mut events);
                return Ok(events);
            };
            let done = self.writer.commit(round);
            if let Some(why) = done.failure() {
                return Err(self.failed(why));
            }
            self.engine.on_round_done(0, done);
        }
        Err(self.failed("it does not come to rest"))
    }

    /// Whether the copy is what was looked at, now that a start has read it.
    fn check(&self, seen: &Held) -> Result<(), Trouble> {
        let core = self.engine.core(CONTROLLERS);
        let same = core.is_some_and(|core| {
            core.report(0) == seen.report && core.hard_state().sealed == seen.hard.sealed
        });
        if same { Ok(()) } else { Err(self.failed("it is not what it was a moment ago; nothing was sealed")) }
    }

    /// Ends the generation here, by this plan. Answers once that is durable.
    fn seal(&mut self, from: Generation, plan: u64) -> Result<SealReport, Trouble> {
        self.engine.seal(0, CONTROLLERS, from, plan);
        let sealed = self.settle()?.into_iter().find_map(|event| match event {
            GroupEvent::Generation { what: GenerationEffect::Sealed(report), .. } => Some(report),
            _ => None,
        });
        // A report names the plan that was asked for; what counts is by which one it is sealed.
        let by = self.engine.core(CONTROLLERS).and_then(|core| core.hard_state().sealed);
        match sealed.filter(|_| by == Some(plan)) {
            Some(report) => Ok(report),
            None => Err(self.failed("its generation could not be ended by this plan")),
        }
    }

    /// The product's own take-over, and behind its entry the audit record, in one round.
    fn take_over(&mut self, decision: &Decision, audit: ControllerRecovery) -> Result<(), Trouble> {
        self.engine.decide(0, CONTROLLERS, decision.clone());
        let payload = Batch::new(vec![Record::ControllersRecovered(Box::new(audit))]).encode();
        let payload = BytesMut::from(&payload[..]);
        let proposal = Proposal { kind: EntryKind::Metadata, offset_span: 0, payload };
        let proposed = self.engine.propose(0, CONTROLLERS, vec![proposal], &mut |_, _| {});
        let last = proposed.map_err(|error| self.failed(error.to_string()))?.pop().map(|meta| meta.id.index);
        self.settle()?;
        let core = self.engine.core(CONTROLLERS);
        let is_done = core.is_some_and(|core| {
            core.epoch().generation == decision.generation && Some(core.commit()) == last
        });
        if is_done { Ok(()) } else { Err(self.failed("it did not take its group over")) }
    }

    fn close(self) -> Result<(), Trouble> {
        let Self { engine, writer, .. } = self;
        drop(engine);
        Ok(writer.close()?)
    }
}

#[cfg(test)]
pub(crate) mod accepting_tests;
#[cfg(test)]
pub(crate) mod tests;
