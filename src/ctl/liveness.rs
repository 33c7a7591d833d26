//! Broker sessions as the controller leader sees them: who is to be fenced, who to be unfenced.
//!
//! Not here: the lease a broker keeps for itself (it measures from the *send* time of its beat; this side measures from
//! the arrival, which is later, so the controllers never fence early), and Raft's own failure detection: a fenced broker
//! is steered away from, never stopped (safety.md F19). Owned by the controller leader; made anew with every
//! leadership. Pure: time is an argument. Invariants:
//! - a new controller leader grants every broker one full session before it calls anyone dead;
//! - a stall of this process is not held against the brokers: their beats could not be heard;
//! - beats of another incarnation than the registered one count for nothing;
//! - a broker that announced its stop is fenced at once and not unfenced again before it registers anew.
//!
//! ```text
//!   registered -> [live] --no beat for the session--> reported expired -> (image: fenced) -> [fenced]
//!                   |  ^                                                                        |
//!        orderly stop  +--(image: unfenced) <- reported resumed <------ beats again ------------+
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
    /// It announced an orderly stop.
    stopping: bool,
    /// When the session lapses.
    deadline: Millis,
    /// A decision was reported and is under way; not reported again before this.
    quiet_until: Millis,
}

/// Sessions of all brokers.
#[derive(Clone, Debug)]
pub struct Sessions {
    timeout: Millis,
    brokers: BTreeMap<NodeId, Session>,
    /// Last time this was asked or told anything: a gap means that *we* were away.
    last_now: Millis,
}

impl Sessions {
    /// Sessions of a new controller leader: every broker gets a full one.
    pub fn new(now: Millis, image: &Image, timeout: Millis) -> Self {
        let mut sessions = Self { timeout: timeout.max(1), brokers: BTreeMap::new(), last_now: now };
        sessions.on_image(image, now);
        sessions
    }

    /// The image moved on: new registrations start a session, fencing and unfencing take effect.
    pub fn on_image(&mut self, image: &Image, now: Millis) {
        self.notice_stall(now);
        self.brokers.retain(|node, _| image.brokers.contains_key(node));
        for (&node, broker) in &image.brokers {
            match self.brokers.get_mut(&node) {
                Some(session) if session.incarnation == broker.incarnation => {
                    if session.fenced != broker.fenced {
                        session.fenced = broker.fenced;
                        session.quiet_until = now;
                        if !broker.fenced && !session.stopping {
                            session.deadline = session.deadline.max(now.saturating_add(self.timeout));
                        }
                    }
                }
                _ => {
                    // A fenced broker has no session until it beats.
                    let has_none = broker.fenced || on(Mutation::NoFirstSession);
                    let deadline = if has_none { now } else { now.saturating_add(self.timeout) };
                    let session = Session {
                        incarnation: broker.incarnation,
                        fenced: broker.fenced,
                        stopping: false,
                        deadline,
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
                if session.fenced { Beat::Fenced } else { Beat::Alive }
            }
        }
    }

    /// A broker announced that it is stopping in order: its session ends now.
    pub fn on_stop(&mut self, node: NodeId, incarnation: u64, now: Millis) {
        self.notice_stall(now);
        if let Some(session) = self.session(node, incarnation) {
            session.stopping = true;
            session.deadline = now;
            session.quiet_until = now;
        }
    }

    /// Brokers to fence. Each is reported once and again only if the image does not show it fenced in good time.
    pub fn expired(&mut self, now: Millis) -> Vec<(NodeId, u64)> {
        self.notice_stall(now);
        self.report(now, |session| !session.fenced && session.deadline <= now)
    }

    /// Brokers to unfence: fenced, not stopping, and beating again. Reported like `expired`.
    pub fn resumed(&mut self, now: Millis) -> Vec<(NodeId, u64)> {
        self.notice_stall(now);
        self.report(now, |session| session.fenced && !session.stopping && session.deadline > now)
    }

    /// Whether a broker's session is alive (it may still be shown fenced).
    pub fn is_alive(&self, node: NodeId, now: Millis) -> bool {
        self.brokers.get(&node).is_some_and(|s| !s.stopping && s.deadline > now)
    }

    /// When `expired` and `resumed` are to be asked next. Never further away than a quarter of a session, so that a
    /// longer silence of the caller is known to be a stall of its own. None without brokers.
    pub fn next_deadline(&self) -> Option<Millis> {
        let tick = self.last_now.saturating_add((self.timeout / 4).max(1));
        self.brokers
            .values()
            .map(|session| {
                if !session.fenced {
                    session.deadline.max(session.quiet_until)
                } else if !session.stopping && session.deadline > self.last_now {
                    session.quiet_until
                } else {
                    Millis::MAX
                }
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
            }
        }
        self.last_now = self.last_now.max(now);
    }
}
