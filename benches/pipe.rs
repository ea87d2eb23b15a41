//! What it costs a program to report a batch, and whether all of them arrive: `cargo bench --bench pipe`.
//!
//! Is itself the program: `target/release/migbench run -- pipe --program FILE` starts it, it reports 20,000
//! batches a second, times every write, and saves both; then the batches of the window are counted on
//! both sides. A second run reports without a pause, which is more than any GPU does.

use migbench::measure::clock::{Clock, Monotonic};
use migbench::results::csv_file;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::path::Path;
use std::process::Command;

/// Between two batches at 20,000 a second.
const PERIOD_NS: u64 = 50_000;

/// Reports until it reads something; each line of `file` is a batch: its start, and how long its write took.
fn program(file: &str, period: u64) {
    let number = std::env::var("MIGBENCH_FD").expect("started by migbench").parse().expect("a descriptor");
    // SAFETY: the descriptor was given to this process for this, and nobody else has it.
    let mut socket = unsafe { std::os::unix::net::UnixStream::from_raw_fd(number) };
    socket.write_all(b"hello -\nready\n").expect("migbench listens");
    let mut word = [0; 64];
    let _ = socket.read(&mut word).expect("start");
    let mut times = Vec::with_capacity(1 << 22);
    let mut line = Vec::with_capacity(64);
    let mut next = Monotonic.now();
    let mut stop = [0; 1];
    loop {
        let start = Monotonic.now();
        // The work: nothing, until the next batch is due.
        next = (next + period).max(start);
        while Monotonic.now() < next {}
        let done = Monotonic.now();
        line.clear();
        let before = Monotonic.now();
        writeln!(line, "batch {} {start}", (done - start).max(1)).expect("memory");
        socket.write_all(&line).expect("migbench listens");
        times.push((start, Monotonic.now() - before));
        // Every 5 ms at that rate; a look is a system call, too.
        if times.len() % 100 == 0 {
            socket.set_nonblocking(true).expect("a socket");
            let heard = socket.read(&mut stop);
            socket.set_nonblocking(false).expect("a socket");
            if heard.is_ok() {
                break;
            }
        }
    }
    let text: String = times.iter().map(|(start, write)| format!("{start} {write}\n")).collect();
    std::fs::write(file, text).expect("a place for the times");
}

/// Runs it under migbench; prints one line.
fn measure(name: &str, period: u64, folder: &Path) {
    let (rows, times) = (folder.join("a.csv"), folder.join("times"));
    let itself = std::env::current_exe().expect("a path");
    let ran = Command::new("target/release/migbench")
        .args(["run", "--device", "cpu", "--duration", "5s", "-q", "--force", "-o"])
        .arg(&rows)
        .arg("--")
        .arg(itself)
        .args(["--program".as_ref(), times.as_os_str(), period.to_string().as_ref()])
        .output()
        .expect("run this from the checkout, after cargo build --release");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let row = csv_file::read(&rows).expect("rows").rows.remove(0);
    let (first, last) = (row.window.start_ns.expect("a window"), row.window.end_ns.expect("a window"));
    let mut text = String::new();
    File::open(times).and_then(|mut file| file.read_to_string(&mut text)).expect("the program's times");
    let batch = |line: &str| {
        let (start, write) = line.split_once(' ')?;
        Some((start.parse::<u64>().ok()?, write.parse::<u64>().ok()?))
    };
    let inside = |(start, _): &(u64, u64)| (first..last).contains(start);
    let mut writes: Vec<u64> =
        text.lines().filter_map(batch).filter(inside).map(|(_, write)| write).collect();
    writes.sort_unstable();
    let sent = writes.len() as u64;
    let mean = writes.iter().sum::<u64>() as f64 / sent as f64;
    let at = |q: f64| writes[(sent as f64 * q) as usize] as f64 / 1e3;
    let line = format!(
        "{name}: {:.0} batches/s; sent {sent}, recorded {}; a report costs the program {:.2} us (p50 {:.2}, p99 {:.2})\n",
        sent as f64 / ((last - first) as f64 / 1e9),
        row.window.batches.unwrap_or(0),
        mean / 1e3,
        at(0.5),
        at(0.99),
    );
    std::io::stdout().write_all(line.as_bytes()).expect("standard output");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, file, period] = arguments.as_slice()
        && flag == "--program"
    {
        return program(file, period.parse().expect("a period"));
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    measure("every 50 us", PERIOD_NS, folder.path());
    measure("without a pause", 0, folder.path());
}
