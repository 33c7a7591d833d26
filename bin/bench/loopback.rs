//! Loopback TCP between two processes: bandwidth, CPU per byte, round trip. The other process is this binary again.
//!
//! The peer binds a free port, prints it, and serves connections one after another: the first byte says what to do
//! (`S`: swallow until the end, then tell its CPU time; `E`: echo messages). It ends when its stdin does, hence
//! with its parent.

use super::report::latencies;
use super::usage::own_cpu;
use crate::output::{Failure, Outcome};
use hdrhistogram::Histogram;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// Bytes of a write; that of a large batch.
const COPY: usize = 64 * 1024;
/// Bytes of a message of the round trip.
const PING: usize = 64;

/// The other end; stopped when dropped.
pub struct Peer {
    child: Child,
    address: String,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts this binary with other arguments and reads the first line it prints.
pub fn spawn_self(args: &[&str]) -> Result<(Child, String), Failure> {
    let binary = std::env::current_exe()?;
    let mut child = Command::new(binary).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let out = child.stdout.take().ok_or_else(|| Failure::new("BENCH", "the child has no stdout"))?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    if line.is_empty() {
        let _ = child.kill();
        return Err(Failure::new("BENCH", "the child process did not start"));
    }
    Ok((child, line.trim().to_owned()))
}

/// Figures of a copy.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    /// Bytes per second.
    pub rate: f64,
    /// CPU seconds per 10^9 bytes, both ends.
    pub cpu_per_gb: f64,
    /// The sender's part of it.
    pub sender_per_gb: f64,
}

impl Peer {
    /// Starts the other end.
    pub fn start() -> Result<Self, Failure> {
        let (child, address) = spawn_self(&["bench", "loopback-peer"])?;
        Ok(Self { child, address })
    }

    fn connect(&self, mode: u8) -> Result<TcpStream, Failure> {
        let mut socket = TcpStream::connect(&self.address)?;
        socket.set_nodelay(true)?;
        socket.write_all(&[mode])?;
        Ok(socket)
    }

    /// Sends as fast as possible for this long.
    pub fn copy(&self, duration: Duration) -> Result<Copied, Failure> {
        let mut socket = self.connect(b'S')?;
        let data = vec![0x5a; COPY];
        let (started, cpu) = (Instant::now(), own_cpu());
        let mut bytes = 0u64;
        while started.elapsed() < duration {
            for _ in 0..16 {
                socket.write_all(&data)?;
                bytes += COPY as u64;
            }
        }
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut theirs = [0; 8];
        socket.read_exact(&mut theirs)?;
        let elapsed = started.elapsed();
        let own = (own_cpu() - cpu).as_secs_f64();
        let theirs = Duration::from_nanos(u64::from_be_bytes(theirs)).as_secs_f64();
        let gb = bytes as f64 / 1e9;
        Ok(Copied {
            rate: bytes as f64 / elapsed.as_secs_f64(),
            cpu_per_gb: (own + theirs) / gb,
            sender_per_gb: own / gb,
        })
    }

    /// Round trips of a small message for this long, in nanoseconds.
    pub fn round_trips(&self, duration: Duration) -> Result<Histogram<u64>, Failure> {
        let mut socket = self.connect(b'E')?;
        let mut histogram = latencies();
        let mut message = [1; PING];
        let started = Instant::now();
        while started.elapsed() < duration {
            let sent = Instant::now();
            socket.write_all(&message)?;
            socket.read_exact(&mut message)?;
            histogram.saturating_record(sent.elapsed().as_nanos() as u64);
        }
        Ok(histogram)
    }
}

/// Runs the other end.
pub fn peer() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    std::thread::spawn(|| {
        // The parent holds the pipe: its end is ours.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    loop {
        let (socket, _) = listener.accept()?;
        // A connection that breaks is the parent's to report.
        if let Err(e) = serve(socket) {
            tracing::debug!("loopback: {e}");
        }
    }
    #[allow(unreachable_code)]
    Ok(ExitCode::SUCCESS)
}

fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut mode = [0];
    socket.read_exact(&mut mode)?;
    let mut buffer = vec![0; COPY];
    if mode[0] == b'S' {
        let cpu = own_cpu();
        while socket.read(&mut buffer)? > 0 {}
        let used = (own_cpu() - cpu).as_nanos() as u64;
        return socket.write_all(&used.to_be_bytes());
    }
    loop {
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        socket.write_all(&buffer[..n])?;
    }
}
