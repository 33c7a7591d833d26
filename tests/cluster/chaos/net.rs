//! Partitions between the nodes of a cluster whose hosts are addresses of the loopback device, as packet filter rules.
//!
//! Not here: who is cut off, and when. Called by `stage`. Packets are dropped where they arrive, as a cable or a switch loses
//! them: the sender's stack learns nothing; or they are answered with resets, as by a firewall. Only a network namespace of the test's own is touched.

use super::world::feed;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Processes of this group are the captive clients.
pub const CAPTIVE: u32 = 4242;

/// What is cut at the moment.
#[derive(Debug, Default)]
pub struct Net {
    cuts: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    resets: BTreeSet<(Ipv4Addr, Ipv4Addr)>,
    captive: BTreeSet<Ipv4Addr>,
}

impl Net {
    /// Loses everything from one host to another, in that direction alone.
    pub fn cut(&mut self, from: Ipv4Addr, to: Ipv4Addr) {
        self.cuts.insert((from, to));
    }

    /// The same, and the sender is told by a reset of the connection.
    pub fn reset(&mut self, from: Ipv4Addr, to: Ipv4Addr) {
        self.resets.insert((from, to));
    }

    /// Loses everything that captive clients send to a host.
    pub fn cut_captives(&mut self, to: Ipv4Addr) {
        self.captive.insert(to);
    }

    /// Forgets all cuts.
    pub fn clear(&mut self) {
        *self = Net::default();
    }

    /// Makes it so, in one step.
    pub fn apply(&self) {
        feed("nft", &["-f", "-"], &self.rules());
    }

    fn rules(&self) -> String {
        // Who sends is known where a packet leaves; the mark tells it where the packet arrives.
        let mut rules = String::from(
            "flush ruleset\ntable ip chaos {\nchain sent {\ntype filter hook output priority 0;\n",
        );
        for to in &self.captive {
            let _ = writeln!(rules, "meta skgid {CAPTIVE} ip daddr {to} meta mark set 7");
        }
        rules.push_str("}\nchain arrived {\ntype filter hook input priority 0;\nmeta mark 7 counter drop\n");
        for (from, to) in &self.cuts {
            let _ = writeln!(rules, "ip saddr {from} ip daddr {to} counter drop");
        }
        for (from, to) in &self.resets {
            // But for the resets themselves, which the other direction's rule would lose.
            let whom = format!("ip saddr {from} ip daddr {to} tcp flags & rst == 0");
            let _ = writeln!(rules, "{whom} counter reject with tcp reset");
        }
        rules.push_str("}\n}\n");
        rules
    }
}
