//! Our own members of consumer groups ([`Membership`], what `kontiki consume -g` is made of), one by one: whom they ask, when they are told that they are
//! members no more, what a leader does about new partitions, and that leaving does not depend on one coordinator.

use super::exclusive;
use super::system::{BROKERS, Cluster, Layout};
use kontiki::broker::groups::partition_of;
use kontiki::client::{Client, ClientOptions, MemberOptions, Membership, Standing};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

const TOPIC: &str = "ours";
const OFFSETS: &str = "__consumer_offsets";
const LIMIT: Duration = Duration::from_secs(120);

fn client(cluster: &Cluster) -> Client {
    Client::new(ClientOptions {
        bootstrap: cluster.bootstrap().split(',').map(str::to_owned).collect(),
        call_timeout: LIMIT,
        ..ClientOptions::default()
    })
}

fn start(name: &str) -> Cluster {
    let layout = Layout {
        environment: vec![("KONTIKI_KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")],
        ..Layout::default()
    };
    let cluster = Cluster::start_in(name, layout);
    let created = Command::new(env!("CARGO_BIN_EXE_kontiki"))
        .args(["topic", "create", TOPIC, "-p", "2", "-r", "3", "-B", &cluster.bootstrap()])
        .output()
        .expect("kontiki");
    assert!(created.status.success(), "topic create: {}", String::from_utf8_lossy(&created.stderr));
    cluster
}

/// Coordinators looked up so far, of those brokers that answer.
fn looked_up(cluster: &Cluster) -> u64 {
    let name = "kontiki_request_duration_seconds_count{api=\"FindCoordinator\"} ";
    let of = |broker| {
        let text = cluster.http(broker, "/metrics").unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok()).unwrap_or(0)
    };
    BROKERS.into_iter().map(of).sum()
}

#[test]
fn coordinator_is_looked_up_once_and_again_when_it_dies_and_new_partitions_are_shared_out() {
    let _alone = exclusive();
    let mut cluster = start("own-coordinator");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = client(&cluster);
    let options = MemberOptions {
        session_timeout: Duration::from_secs(60),
        look: Duration::from_millis(200),
        ..MemberOptions::default()
    };
    let mut member = Membership::new(client.clone(), "looking", TOPIC, options);
    runtime.block_on(async {
        assert_eq!(member.join().await.expect("joined"), [0, 1]);
        let before = looked_up(&cluster);
        for _ in 0..20 {
            assert_eq!(member.heartbeat().await.expect("a beat"), Standing::Member);
        }
        let offsets = BTreeMap::from([(0, (5, -1))]);
        assert_eq!(member.commit(&offsets).await.expect("a commit"), Standing::Member);
        assert_eq!(looked_up(&cluster), before, "the coordinator is known");
    });
    let coordinator = cluster.leader(OFFSETS, partition_of("looking", 50));
    cluster.kill(coordinator);
    runtime.block_on(async {
        // Nobody waits for the dead one: the next one is looked up, and knows the generation.
        assert_eq!(member.heartbeat().await.expect("a beat of the next one"), Standing::Member);
        assert_eq!(member.committed(&[0]).await.expect("committed"), BTreeMap::from([(0, 5)]));
    });
    cluster.spawn(coordinator);
    cluster.await_answer(coordinator);
    runtime.block_on(async {
        client.create_partitions(TOPIC, 4, false).await.expect("more partitions");
        let deadline = Instant::now() + LIMIT;
        while member.heartbeat().await.expect("a beat") == Standing::Member {
            assert!(Instant::now() < deadline, "a leader does not see its topic grow");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(member.join().await.expect("joined again"), [0, 1, 2, 3]);
        member.leave().await.expect("left");
    });
}

#[test]
fn silent_member_is_fenced_and_leaving_outlives_the_coordinator() {
    let _alone = exclusive();
    let mut cluster = start("own-fencing");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = client(&cluster);
    let options = MemberOptions { session_timeout: Duration::from_secs(6), ..MemberOptions::default() };
    let place = |offset| BTreeMap::from([(0, (offset, -1))]);
    let mut second = Membership::new(client.clone(), "fencing", TOPIC, MemberOptions::default());
    runtime.block_on(async {
        let mut silent = Membership::new(client.clone(), "fencing", TOPIC, options);
        // On a machine that stands still for a session it is not a member any more when it commits.
        let deadline = Instant::now() + LIMIT;
        loop {
            assert_eq!(silent.join().await.expect("joined"), [0, 1]);
            if silent.commit(&place(5)).await.expect("a commit") == Standing::Member {
                break;
            }
            assert!(Instant::now() < deadline, "it never is a member for long enough");
        }
        // It says nothing more; the second one waits for it until its session is over.
        assert_eq!(second.join().await.expect("joined"), [0, 1]);
        assert_eq!(silent.commit(&place(99)).await.expect("an answer"), Standing::Outdated);
        assert_eq!(silent.heartbeat().await.expect("an answer"), Standing::Outdated);
        assert_eq!(second.committed(&[0]).await.expect("committed"), BTreeMap::from([(0, 5)]));
        assert_eq!(second.heartbeat().await.expect("a beat"), Standing::Member);
    });
    let coordinator = cluster.leader(OFFSETS, partition_of("fencing", 50));
    cluster.kill(coordinator);
    runtime.block_on(async {
        second.leave().await.expect("left by way of the next coordinator");
        let described = client.describe_group("fencing").await.expect("a group");
        assert_eq!((described.state.as_str(), described.members.len()), ("Empty", 0));
    });
}
