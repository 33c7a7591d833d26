//! The jobs of consumer groups.

use crate::{Done, Record, Run, State, Told, poll};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

/// A member, and what it read.
pub struct Member {
    name: &'static str,
    consumer: BaseConsumer<Told>,
    topic: String,
    reads: Vec<Record>,
    /// Next offset of each partition that it read something of and still has.
    given: BTreeMap<i32, i64>,
}

impl Member {
    fn state(&self) -> MutexGuard<'_, State> {
        self.consumer.context().0.lock().unwrap()
    }

    pub fn held(&self) -> BTreeSet<i32> {
        self.state().held.clone()
    }

    /// Takes what there is, if something comes soon.
    pub fn poll(&mut self) -> Done {
        let mut millis = 20;
        while let Some(record) = poll(&self.consumer, millis)? {
            self.given.insert(record.partition, record.offset + 1);
            self.reads.push(record);
            millis = 0;
        }
        let held = self.held();
        self.given.retain(|partition, _| held.contains(partition));
        Ok(())
    }

    /// Commits what it read; the next offset of each partition.
    fn commit(&self) -> Done<BTreeMap<i32, i64>> {
        if self.given.is_empty() {
            return Err("nothing to commit".into());
        }
        let mut places = TopicPartitionList::new();
        for (partition, offset) in &self.given {
            places.add_partition_offset(&self.topic, *partition, Offset::Offset(*offset))?;
        }
        self.consumer.commit(&places, CommitMode::Sync)?;
        Ok(self.given.clone())
    }
}

impl Run {
    pub fn join(&self, name: &'static str, more: &[(&str, &str)]) -> Done<Member> {
        let mut config = self.config();
        config
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest");
        config.set("heartbeat.interval.ms", "500").set("session.timeout.ms", "30000");
        for (key, value) in more {
            config.set(*key, *value);
        }
        let consumer = BaseConsumer::from_config_and_context(&config, Told::default())?;
        consumer.subscribe(&[&self.topic])?;
        Ok(Member { name, consumer, topic: self.topic.clone(), reads: Vec::new(), given: BTreeMap::new() })
    }

    /// Waits until the members hold all partitions, each once, and each member as many as it should.
    fn shared(&self, members: &mut [&mut Member]) -> Done {
        let each = self.partitions / members.len();
        self.await_that("sharing the partitions", || {
            members.iter_mut().try_for_each(|member| member.poll())?;
            let held: Vec<_> = members.iter().map(|member| member.held()).collect();
            let all: BTreeSet<i32> = held.iter().flatten().copied().collect();
            Ok(held.iter().all(|held| held.len() == each) && all.len() == self.partitions)
        })
    }

    /// Waits until the members have read these records; none was read twice, those of `gone` counted in.
    fn whole(&self, records: std::ops::Range<usize>, members: &mut [&mut Member], gone: &[Record]) -> Done {
        self.await_that("every record", || {
            members.iter_mut().try_for_each(|member| member.poll())?;
            let mut seen = HashSet::new();
            for record in members.iter().flat_map(|member| &member.reads).chain(gone) {
                let i = self.number(&record.value)?;
                if !seen.insert(i) {
                    return Err(format!("record {i} was read twice").into());
                }
            }
            Ok(records.clone().all(|i| seen.contains(&i)))
        })
    }

    /// Two members share, one leaves, the other gets all; every record is read once.
    pub fn shared_group(&self) -> Done {
        let mut a = self.join("a", &[])?;
        self.shared(&mut [&mut a])?;
        let mut b = self.join("b", &[])?;
        self.shared(&mut [&mut a, &mut b])?;
        let half = self.n / 2;
        self.write(0..half)?;
        self.whole(0..half, &mut [&mut a, &mut b], &[])?;
        for member in [&a, &b] {
            if member.reads.is_empty() {
                return Err(format!("{} read nothing", member.name).into());
            }
            member.commit()?;
        }
        let Member { consumer, reads, .. } = b;
        drop(consumer);
        self.shared(&mut [&mut a])?;
        self.write(half..self.n)?;
        self.whole(0..self.n, &mut [&mut a], &reads)
    }

    /// A member with an instance id stops and comes back; it has the same partitions, and the other one was told nothing.
    pub fn static_members(&self) -> Done {
        let mut a = self.join("a", &[("group.instance.id", "a")])?;
        let mut b = self.join("b", &[("group.instance.id", "b")])?;
        self.shared(&mut [&mut a, &mut b])?;
        let (changes, held) = (a.state().changes, b.held());
        drop(b);
        let mut again = self.join("b again", &[("group.instance.id", "b")])?;
        self.shared(&mut [&mut a, &mut again])?;
        if again.held() != held {
            return Err(format!("b had the partitions {held:?} and came back to {:?}", again.held()).into());
        }
        self.write(0..self.n)?;
        self.whole(0..self.n, &mut [&mut a, &mut again], &[])?;
        if a.state().changes != changes {
            return Err("a saw a rebalance".into());
        }
        Ok(())
    }

    /// A second member joins while the first reads; what the first keeps is never taken from it, and it reads on meanwhile.
    pub fn cooperative(&self) -> Done {
        let sticky = [("partition.assignment.strategy", "cooperative-sticky")];
        let mut a = self.join("a", &sticky)?;
        self.shared(&mut [&mut a])?;
        let mut written = 0;
        let mut write = || {
            self.write(written..written + 50)?;
            written += 50;
            Done::Ok(written)
        };
        self.await_that("the first record", || {
            write()?;
            a.poll()?;
            Ok(!a.reads.is_empty())
        })?;
        let before = a.reads.len();
        let mut b = self.join("b", &sticky)?;
        self.await_that("b's partitions", || {
            write()?;
            a.poll()?;
            b.poll()?;
            Ok(!b.held().is_empty())
        })?;
        let during: HashSet<i32> = a.reads[before..].iter().map(|record| record.partition).collect();
        self.shared(&mut [&mut a, &mut b])?;
        let kept = a.held();
        if let Some(gone) = kept.iter().find(|partition| a.state().revoked.contains(partition)) {
            return Err(format!("a keeps {kept:?}, but {gone} was taken away meanwhile").into());
        }
        if !kept.iter().any(|partition| during.contains(partition)) {
            return Err(format!("a read nothing of {kept:?} while b joined").into());
        }
        // Of partitions that moved without a commit both may have read something.
        let written = write()?;
        self.await_that("reading what was written meanwhile", || {
            a.poll()?;
            b.poll()?;
            let seen: Done<HashSet<usize>> =
                a.reads.iter().chain(&b.reads).map(|record| self.number(&record.value)).collect();
            Ok(seen?.len() == written)
        })?;
        a.commit()?;
        b.commit()?;
        Ok(())
    }

    /// Half is read and committed; a new member gets exactly the other half.
    pub fn commit_resume(&self) -> Done {
        self.write(0..self.n)?;
        let mut seen = HashSet::new();
        for until in [self.n / 2, self.n] {
            let mut member = self.join("member", &[])?;
            self.await_that("the records", || {
                // One by one: what was not looked at must not be committed.
                if let Some(record) = poll(&member.consumer, 50)? {
                    let i = self.number(&record.value)?;
                    if !seen.insert(i) {
                        return Err(format!("record {i} was read before the commit and again").into());
                    }
                    member.given.insert(record.partition, record.offset + 1);
                }
                Ok(seen.len() >= until)
            })?;
            member.commit()?;
        }
        Ok(())
    }

    /// Reads while the driver kills the coordinator; in the end everything that was read must be committed.
    pub fn coordinator_killed(&self) -> Done {
        let mut member = self.join("member", &[])?;
        let (mut seen, mut ends, mut committed) = (HashSet::new(), HashMap::new(), HashMap::new());
        let (mut is_ready, mut next) = (false, Instant::now());
        self.await_that("everything read and committed", || {
            member.poll()?;
            for record in member.reads.drain(..) {
                let end = ends.entry(record.partition).or_insert(0);
                *end = record.offset.max(*end - 1) + 1;
                seen.insert(record.value);
            }
            if seen.is_empty() || Instant::now() < next {
                return Ok(false);
            }
            next = Instant::now() + Duration::from_millis(200);
            // May fail while the coordinator moves; and after a rebalance it is less again, until that was read again.
            match member.commit() {
                Ok(now) => committed.extend(now),
                Err(error) => {
                    eprintln!("commit: {error}");
                    return Ok(false);
                }
            }
            if !is_ready {
                println!("ready");
                is_ready = true;
            }
            Ok(seen.len() >= self.n && committed == ends)
        })
    }
}
