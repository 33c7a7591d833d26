//! Broker sessions as the controller leader sees them: who is to be fenced, who to be unfenced, who is dead.
//!
//! Not here: the lease a broker keeps for itself (it measures from the *send* time of its beat; this side measures from
//! the arrival, which is later, so the controllers never fence early), and Raft's own failure detection: a fenced broker
//! is steered away from, never stopped (safety.md F19). Owned by the controller leader; made anew with every
//! leadership. Pure: time is an argument. Invariants:
//! - a new controller leader grants every broker one full session before it calls anyone dead;
//! - a stall of this process is not held against the brokers: their beats could not be heard;
//! - beats of another incarnation than the registered one count for nothing;
//! - a broker that announced its stop is fenced at once and not unfenced again before it registers anew; it is dead only when
//!   `shrink.grace.ms` is over;
//! - any other is dead when its session is over, or a moment after its connections ended: a process that died is known by that, long
//!   before its session would tell (safety.md F24; a wrong guess costs churn, not data).
//!
//! ```text
//!   registered -> [live] --no beat for the session--> reported expired -> (image: fenced) -> [fenced] -> (image: dead)
//!                 | |  ^                                                                        |         |    ^
//!                 | |  +--(image: unfenced) <- reported resumed <------ beats again ------------+---------+    |
//!                 | +-- orderly stop: reported expired -> (image: stopping) -- shrink.grace.ms ----------------+
//!                 +---- connections ended: suspect -- broker.reconnect.timeout.ms -----------------------------+
//! ```
use super::image::Image;
use crate::mutation::{Mutation, on};
use crate::raftlog::core::Millis;
use crate::segment::NodeId;
use std::collections::BTreeMap;

/// What a beat was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beat {
    /// The session is extended.
    Alive,
    /// Heard, but the broker is fenced at the moment (it will be unfenced, unless it is stopping).
    Fenced,
    /// Not registered with that incarnation: it has to register.
    Unknown,
}

/// One broker's session.
#[derive(Clone, Debug)]
struct Session {
    incarnation: u64,
    fenced: bool,
    dead: bool,
    /// It announced an orderly stop, and the controller log says so.
    stopping: bool,
    is_recorded: bool,
    /// Since when it has no connection to us, if it had one.
    lost: Option<Millis>,
    /// When it was last heard, if it ever was by this controller leader.
    heard: Option<Millis>,
    /// When the session lapses.
    deadline: Millis,
    /// It is not called dead for its silence before; if it stopped, the grace begins here.
    since: Millis,
    /// A decision was reported and is under way; not reported again before this.
    quiet_until: Millis,
}

impl Session {
    /// Fenced, and beating again.
    fn is_back(&self, now: Millis) -> bool {
        self.fenced && !self.stopping && self.lost.is_none() && self.deadline > now
    }

    /// Its stop is not in the log yet, fenced before or not: whoever leads next has to wait for it as long as this one.
    fn is_untold(&self) -> bool {
        self.stopping && !self.is_recorded && !self.dead
    }

    /// When it is to be called dead, as things are.
    fn dead_at(&self, reconnect: Millis, grace: Millis) -> Option<Millis> {
        if self.dead {
            return None;
        }
        if self.stopping {
            return Some(self.since.saturating_add(grace));
        }
        let lost = self.lost.map(|since| since.saturating_add(reconnect));
        let silent = self.fenced.then(|| self.deadline.max(self.since));
        lost.into_iter().chain(silent).min()
    }
}

/// Sessions of all brokers.
#[derive(Clone, Debug)]
pub struct Sessions {
    timeout: Millis,
    reconnect: Millis,
    grace: Millis,
    brokers: BTreeMap<NodeId, Session>,
    /// Last time this was asked or told anything: a gap means that *we* were away.
    last_now: Millis,
}

impl Sessions {
    /// Sessions of a new controller leader: every broker gets a full one.
    pub fn new(now: Millis, image: &Image, timeout: Millis) -> Self {
        let timeout = timeout.max(1);
        let brokers = BTreeMap::new();
        let mut sessions = Self { timeout, reconnect: timeout, grace: Millis::MAX, brokers, last_now: now };
        sessions.on_image(image, now);
        sessions
    }

    /// How long a broker may be without connections, and how long one that stopped in order may stay away, before it is dead.
    pub fn with_patience(self, reconnect: Millis, grace: Millis) -> Self {
        Self { reconnect, grace, ..self }
    }

    /// The image moved on: new registrations start a session, fencing and unfencing take effect.
    pub fn on_image(&mut self, image: &Image, now: Millis) {
        self.notice_stall(now);
        self.brokers.retain(|node, _| image.brokers.contains_key(node));
        for (&node, broker) in &image.brokers {
            match self.brokers.get_mut(&node) {
                Some(session) if session.incarnation == broker.incarnation => {
                    session.is_recorded = broker.stopping;
                    if (session.fenced, session.dead) != (broker.fenced, broker.dead) {
                        (session.fenced, session.dead) = (broker.fenced, broker.dead);
                        session.quiet_until = now;
                        if !broker.fenced && !session.stopping {
                            session.deadline = session.deadline.max(now.saturating_add(self.timeout));
                        } else if broker.dead && session.lost.is_some() {
                            // What was left of its session says nothing: it has to beat to be back.
                            session.deadline = now;
                        }
                    }
                }
                _ => {
                    // A fenced broker has no session until it beats; before it is called dead it gets one all the same, or
                    // the whole grace if it stopped in order.
                    let since = match (broker.fenced, broker.stopping) {
                        (true, false) => now.saturating_add(self.timeout),
                        _ => now,
                    };
                    let has_none = broker.fenced || on(Mutation::NoFirstSession);
                    let deadline = if has_none { now } else { now.saturating_add(self.timeout) };
                    let session = Session {
                        incarnation: broker.incarnation,
                        fenced: broker.fenced,
                        dead: broker.dead,
                        stopping: broker.stopping,
                        is_recorded: broker.stopping,
                        lost: None,
                        heard: None,
                        deadline,
                        since,
                        quiet_until: now,
                    };
                    self.brokers.insert(node, session);
                }
            }
        }
    }

    /// A beat of a broker arrived.
    pub fn on_heartbeat(&mut self, node: NodeId, incarnation: u64, now: Millis) -> Beat {
        self.notice_stall(now);
        let timeout = self.timeout;
        match self.session(node, incarnation) {
            None => Beat::Unknown,
            Some(session) if session.stopping => Beat::Fenced,
            Some(session) => {
                session.deadline = session.deadline.max(now.saturating_add(timeout));
                session.heard = Some(now);
                session.lost = None;
                if session.fenced { Beat::Fenced } else { Beat::Alive }
            }
        }
    }

    /// A broker announced that it is stopping in order: its session ends now.
    pub fn on_stop(&mut self, node: NodeId, incarnation: u64, now: Millis) {
        self.notice_stall(now);
        if let Some(session) = self.session(node, incarnation) {
            if !session.stopping {
                session.since = now;
                session.quiet_until = now;
            }
            session.stopping = true;
            session.deadline = session.deadline.min(now);
        }
    }

    /// Whether it announced that it stops.
    pub fn is_stopping(&self, node: NodeId) -> bool {
        self.brokers.get(&node).is_some_and(|session| session.stopping)
    }

    /// The last connection from a broker ended: its process is gone, or something between us is.
    pub fn on_lost(&mut self, node: NodeId, now: Millis) {
        self.notice_stall(now);
        if let Some(session) = self.brokers.get_mut(&node) {
            session.lost.get_or_insert(now);
        }
    }

    /// There is a connection again.
    pub fn on_connected(&mut self, node: NodeId) {
        if let Some(session) = self.brokers.get_mut(&node) {
            session.lost = None;
        }
    }

    /// Brokers to call dead. Reported like `expired`; one that nobody has fenced yet is fenced by it.
    pub fn dead(&mut self, now: Millis) -> Vec<(NodeId, u64)> {
        self.notice_stall(now);
        let (reconnect, grace) = (self.reconnect, self.grace);
        self.report(now, |session| session.dead_at(reconnect, grace).is_some_and(|at| at <= now))
    }

    /// Brokers to fence, or whose stop is to be recorded. Each is reported once and again only if the image does not show it in good time.
    pub fn expired(&mut self, now: Millis) -> Vec<(NodeId, u64)> {
        self.notice_stall(now);
        self.report(now, |session| (!session.fenced && session.deadline <= now) || session.is_untold())
    }

    /// Brokers to unfence: fenced, not stopping, and beating again. Reported like `expired`.
    pub fn resumed(&mut self, now: Millis) -> Vec<(NodeId, u64)> {
        self.notice_stall(now);
        self.report(now, |session| session.is_back(now))
    }

    /// Whether a broker's session is alive (it may still be shown fenced).
    pub fn is_alive(&self, node: NodeId, now: Millis) -> bool {
        self.brokers.get(&node).is_some_and(|s| !s.stopping && s.lost.is_none() && s.deadline > now)
    }

    /// Milliseconds since its last beat, if this controller leader heard any.
    pub fn silent_ms(&self, node: NodeId, now: Millis) -> Option<Millis> {
        self.brokers.get(&node)?.heard.map(|at| now.saturating_sub(at))
    }

    /// When `expired` and `resumed` are to be asked next. Never further away than a quarter of a session, so that a
    /// longer silence of the caller is known to be a stall of its own. None without brokers.
    pub fn next_deadline(&self) -> Option<Millis> {
        let tick = self.last_now.saturating_add((self.timeout / 4).max(1));
        self.brokers
            .values()
            .map(|session| {
                let dead = session.dead_at(self.reconnect, self.grace).unwrap_or(Millis::MAX);
                let change = if !session.fenced {
                    session.deadline.max(session.quiet_until)
                } else if session.is_back(self.last_now) || session.is_untold() {
                    session.quiet_until
                } else {
                    Millis::MAX
                };
                change.min(dead.max(session.quiet_until))
            })
            .min()
            .map(|next| next.min(tick))
    }

    fn session(&mut self, node: NodeId, incarnation: u64) -> Option<&mut Session> {
        self.brokers.get_mut(&node).filter(|s| s.incarnation == incarnation)
    }

    fn report(&mut self, now: Millis, due: impl Fn(&Session) -> bool) -> Vec<(NodeId, u64)> {
        let retry = now.saturating_add((self.timeout / 4).max(1));
        self.brokers
            .iter_mut()
            .filter(|(_, session)| session.quiet_until <= now && due(session))
            .map(|(&node, session)| {
                session.quiet_until = retry;
                (node, session.incarnation)
            })
            .collect()
    }

    /// After more than half a session without a call, this process was away (SIGSTOP, a paused machine), and beats
    /// wait unread in its sockets: every running session is granted anew.
    fn notice_stall(&mut self, now: Millis) {
        if now.saturating_sub(self.last_now) > self.timeout / 2 {
            let timeout = self.timeout;
            for session in self.brokers.values_mut().filter(|s| !s.fenced && !s.stopping) {
                session.deadline = session.deadline.max(now.saturating_add(timeout));
                session.lost = session.lost.map(|_| now);
            }
        }
        self.last_now = self.last_now.max(now);
    }
}
