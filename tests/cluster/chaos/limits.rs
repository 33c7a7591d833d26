//! Machines that run short: file descriptors, a disk that is slow, bytes that change under a running broker; and the proof that
//! the harness's own wires and disks fail as they say.

use super::disk::Disk;
use super::inject::Tampering;
use super::net::Net;
use super::stage::{RESUME, Stage, TOPIC};
use super::world::{apart, attempt, must};
use crate::faults::now_us;
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

fn wait(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}

/// Connections that say nothing, as many as are taken in a moment.
fn flood(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok();
    (0..count).map_while(|_| connect()).collect()
}

/// Processor time a process has used, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a live process");
    let (_, fields) = stat.rsplit_once(')').expect("a command name");
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().expect("ticks")).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// A broker whose every listener is flooded keeps descriptors for what it stores and whom it serves. One that has none left
/// all the same (its limit was lowered) waits instead of spinning, and goes on as soon as it has some.
#[test]
fn descriptors_run_out_accepting_waits_and_storage_goes_on() {
    apart(module_path!(), "descriptors_run_out_accepting_waits_and_storage_goes_on", || {
        let short = 1;
        let prefix = ["prlimit", "--nofile=400:400", "--"].map(str::to_string).to_vec();
        let mut stage = Stage::start("descriptors", BTreeMap::from([(short, prefix)]));
        let pid = stage.cluster.pid(short).expect("a running node");
        // Fewer Kafka connections than it takes: one more must still get in.
        let doors = [
            (stage.cluster.peer_address(short), 500),
            (stage.cluster.address(short), 200),
            (stage.cluster.admin_address(short), 500),
        ];
        let flooded = doors.map(|(door, count)| flood(door, count));
        let from = stage.fault("flood of connections", &flooded.each_ref().map(Vec::len));
        assert!(flooded.iter().map(Vec::len).sum::<usize>() > 400, "a flood larger than the limit");
        stage.resumed("a flood of connections", from, RESUME);
        // New replicas need files of their own, and what is written rolls into new ones.
        let bootstrap = stage.cluster.bootstrap();
        let create = ["topic", "create", "meanwhile", "-p", "6", "-r", "3", "-B", &bootstrap];
        attempt(env!("CARGO_BIN_EXE_kontiki"), &create).unwrap_or_else(|e| panic!("{e}"));
        stage.cluster.await_in_sync("meanwhile", Duration::from_secs(20));
        wait(2.0);
        let meanwhile = now_us();
        stage.resumed("making a topic in a flood", meanwhile, RESUME);
        drop(flooded);
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("a live process").count().to_string();
        must("prlimit", &["--pid", &pid.to_string(), &format!("--nofile={open}:")]);
        let flooded = doors.map(|(door, _)| flood(door, 50));
        stage.fault("descriptors run out", &flooded.each_ref().map(Vec::len));
        let (cpu, started) = (cpu_seconds(pid), Instant::now());
        wait(3.0);
        let used = (cpu_seconds(pid) - cpu) / started.elapsed().as_secs_f64();
        stage.say(format_args!("{open} descriptors, {used:.2} of a processor used"));
        assert!(used < 0.7, "accepting spins: {used:.2} of a processor");
        drop(flooded);
        must("prlimit", &["--pid", &pid.to_string(), "--nofile=400:"]);
        let from = now_us();
        stage.resumed("descriptors again", from, RESUME);
        stage.verify();
    });
}

/// A slow follower holds up nobody; a slow leader is slow and loses nothing. Then bytes change under a running broker: none
/// of them reaches a consumer, and what is read is what was written.
#[test]
fn slow_disk_and_flipped_bytes_readers_see_only_what_was_written() {
    apart(module_path!(), "slow_disk_and_flipped_bytes_readers_see_only_what_was_written", || {
        let mut stage = Stage::start("slow", BTreeMap::new());
        let leader = stage.cluster.leader(TOPIC, 0);
        let [follower, _] = Stage::others(leader);
        for node in [follower, leader] {
            let from = stage.tamper(node, Tampering::SlowSync(200));
            wait(2.0);
            stage.resumed("a slow disk", from, RESUME);
            assert!(stage.tampered(node) > 0, "no fsync was slowed down");
            stage.leave_alone(node);
        }
        stage.converge();
        let (_, mut rng) = crate::seeded();
        stage.flip_bits(leader, &mut rng);
        stage.verify();
    });
}

/// What the other tests rest on: a cut loses one direction and is mended; marked clients are told from others.
#[test]
fn wires_of_the_harness_lose_what_they_are_told_to() {
    apart(module_path!(), "wires_of_the_harness_lose_what_they_are_told_to", || {
        let [a, b] = [Ipv4Addr::new(127, 0, 0, 11), Ipv4Addr::new(127, 0, 0, 12)];
        let listener = TcpListener::bind((b, 7000)).expect("a free port");
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((a, 0)).into()).expect("an address of loopback");
        socket.connect(&SocketAddr::from((b, 7000)).into()).expect("whole wires");
        let (mut to, (mut from, _)) = (TcpStream::from(socket), listener.accept().expect("a connection"));
        from.set_read_timeout(Some(Duration::from_millis(400))).expect("a time limit");
        let mut carries = |what: u8| {
            to.write_all(&[what]).expect("a buffer");
            let mut got = [0];
            from.read_exact(&mut got).map(|()| got[0]).ok()
        };
        let mut net = Net::default();
        assert_eq!(carries(1), Some(1));
        net.cut(a, b);
        net.apply();
        assert_eq!(carries(2), None, "a cut wire carries");
        let other = TcpStream::connect_timeout(&(b, 7000).into(), Duration::from_millis(400));
        assert!(other.is_ok(), "a wire that was not cut carries nothing");
        net.clear();
        net.cut_captives(b);
        net.apply();
        // What was lost is sent again when TCP's patience has doubled a few times; then both are there.
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut got = carries(3);
        while got.is_none() && Instant::now() < deadline {
            got = carries(3);
        }
        assert_eq!(got, Some(2), "a mended wire carries nothing");
        let reach = |group: u32| {
            let script = format!("exec 3<>/dev/tcp/{b}/7000");
            let group = group.to_string();
            attempt("setpriv", &["--regid", &group, "--clear-groups", "timeout", "1", "bash", "-c", &script])
                .is_ok()
        };
        assert!(reach(0), "a client that is not captive is cut off");
        assert!(!reach(super::net::CAPTIVE), "a captive client is not cut off");
        net.clear();
        net.reset(a, b);
        net.reset(b, a);
        net.apply();
        to.set_read_timeout(Some(Duration::from_secs(2))).expect("a time limit");
        to.write_all(&[4]).expect("a buffer");
        let told = to.read(&mut [0]).expect_err("nothing was sent");
        assert_eq!(told.kind(), ErrorKind::ConnectionReset, "nobody is told: {told}");
    });
}

/// What the power cuts rest on: synced bytes are there afterwards, others are not.
#[test]
fn power_cut_of_the_harness_keeps_what_was_synced_and_loses_the_rest() {
    apart(module_path!(), "power_cut_of_the_harness_keeps_what_was_synced_and_loses_the_rest", || {
        let below = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos-disk");
        let _ = fs::remove_dir_all(&below);
        let at = below.join("mounted");
        fs::create_dir_all(&at).expect("a directory");
        let disk = Disk::make(below.join("image"), at.clone());
        let mut synced = fs::File::create(at.join("synced")).expect("a file");
        synced.write_all(b"kept").and_then(|()| synced.sync_all()).expect("space");
        fs::File::open(&at).and_then(|dir| dir.sync_all()).expect("a directory");
        fs::write(at.join("written"), b"gone").expect("space");
        synced.write_all(b" and more").expect("space");
        drop(synced);
        disk.cut_power();
        assert!(fs::write(at.join("after"), b"x").is_err(), "a disk without power takes bytes");
        disk.restore_power();
        assert_eq!(fs::read(at.join("synced")).expect("a file"), b"kept");
        assert!(fs::read(at.join("written")).unwrap_or_default().is_empty(), "bytes that were never synced");
        disk.fill(1 << 20);
        assert!(disk.free() <= 1 << 20);
        disk.relieve();
        assert!(disk.free() > 1 << 30);
        drop(disk);
        let _ = fs::remove_dir_all(&below);
    });
}
