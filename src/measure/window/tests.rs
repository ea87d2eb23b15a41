use super::super::clock::Virtual;
use super::super::load::{Arrivals, lindley};
use super::*;
use crate::workload::scripted::Scripted;
use proptest::prelude::*;

fn run_task(script: &str, rule: Rule, task: &Task) -> (Records, Ended, u64) {
    let clock = Virtual::starting_at(77);
    let mut workload = Scripted::new(script, clock.clone()).unwrap();
    workload.prepare(&[], task.lanes).unwrap();
    let control = Control::default();
    let mut window = Window::new(&clock, &mut workload, task, &control);
    let warm_up = window.warm_up().unwrap();
    let mut records = Records::new(&task.load, task.batch, task.lanes);
    records.keep_log(10_000);
    let ended = window.measure(rule, &mut records).unwrap();
    assert!(window.busy.is_empty() && window.lanes.iter().all(|lane| !lane.busy));
    (records, ended, warm_up)
}

fn run(script: &str, rule: Rule) -> (Records, u64) {
    let (records, ended, warm_up) = run_task(script, rule, &Task::closed(4));
    assert_eq!(ended, Ended::Rule);
    (records, warm_up)
}

fn open(arrivals: Arrivals) -> Task {
    Task { load: Load::Open { arrivals }, seed: 5, ..Task::closed(4) }
}

#[test]
fn scripted_times_are_recorded_to_the_nanosecond() {
    let (records, warm_up) = run("times=1ms:3ms", Rule::given(None, Some(1001)));
    let recording = records.latency();
    // 1 s of pairs of 4 ms; the window then begins with a 1 ms batch.
    assert_eq!(warm_up, 500);
    assert_eq!(recording.batches, 1001);
    assert_eq!(recording.sum_ns, 501 * 1_000_000 + 500 * 3_000_000);
    assert_eq!(recording.end_ns - recording.start_ns, recording.sum_ns);
}

#[test]
fn a_slow_batch_still_warms_up_ten_times() {
    assert_eq!(run("times=2s", Rule::given(None, Some(1))).1, 10);
}

#[test]
fn the_default_window_ends_by_time_and_batches() {
    let (records, _) = run("times=1ms", Rule::DEFAULT);
    assert_eq!(records.count(), 10_000);
    let (records, _) = run("times=20ms", Rule::DEFAULT);
    assert_eq!(records.count(), 700);
    let (records, _) = run("times=7s", Rule::DEFAULT);
    assert_eq!(records.count(), 9); // 63 s: the batch that crosses the cap is the last
}

#[test]
fn a_cut_window_keeps_what_it_measured() {
    for task in [Task::closed(1), Task { lanes: 2, ..Task::closed(1) }] {
        let clock = Virtual::default();
        let mut workload = Scripted::new("times=1ms", clock.clone()).unwrap();
        workload.prepare(&[], task.lanes).unwrap();
        let control = Control::default();
        control.cut.store(true, Relaxed);
        let mut window = Window::new(&clock, &mut workload, &task, &control);
        let mut records = Records::new(&task.load, 1, task.lanes);
        assert_eq!(window.measure(Rule::DEFAULT, &mut records).unwrap(), Ended::Cut);
        assert_eq!(records.count(), if task.lanes == 1 { 1 } else { 0 });
    }
}

/// Lanes work side by side, and each is refilled when it is done, not in turn.
#[test]
fn k_in_flight_keep_k_lanes_busy() {
    let task = Task { lanes: 2, ..Task::closed(1) };
    let (records, ended, _) = run_task("times=3ms:1ms:1ms:1ms:2ms", Rule::given(None, Some(5)), &task);
    assert_eq!(ended, Ended::Rule);
    let start = records.latency().start_ns;
    let ms = |(_, issued, done): &(u64, u64, u64)| ((issued - start) / 1_000_000, (done - start) / 1_000_000);
    let log: Vec<_> = records.log().iter().map(ms).collect();
    // The lane with 3 ms is overtaken by three batches of 1 ms on the other; both are done at 3.
    assert_eq!(log, [(0, 1), (1, 2), (0, 3), (2, 3), (3, 5)]);
}

/// The issue of each batch by Lindley's recursion, and its response = wait + service, to the ns.
#[test]
fn response_is_queueing_and_service() {
    for rate in [100.0, 390.0, 470.0] {
        let arrivals = Arrivals::Poisson(rate);
        let task = open(arrivals.clone());
        let (records, ended, warm_up) =
            run_task("times=1ms:3ms:2500001ns", Rule::given(None, Some(3000)), &task);
        assert_eq!(ended, Ended::Rule);
        let services = [1_000_000, 3_000_000, 2_500_001];
        let jobs: Vec<(u64, u64)> = arrivals
            .schedule(5)
            .zip(services.iter().copied().cycle().skip(warm_up as usize % 3))
            .take(3000)
            .collect();
        let start = records.latency().start_ns;
        let expected: Vec<_> = lindley(jobs.iter().copied())
            .zip(&jobs)
            .map(|(at, (arrival, service))| (start + arrival, start + at, start + at + service))
            .collect();
        assert_eq!(records.log(), expected);
        let arrived = records.arrived().unwrap();
        let responses: u64 = expected.iter().map(|(intended, _, done)| done - intended).sum();
        assert_eq!((arrived.response.sum_ns, arrived.response.batches), (responses, 3000));
        assert_eq!(arrived.late_batches, 0);
        assert_eq!(records.latency().sum_ns, jobs.iter().map(|(_, service)| service).sum::<u64>());
    }
}

/// Two lanes are two servers of one queue (J. Kiefer and J. Wolfowitz, 1955, Transactions of the
/// American Mathematical Society 78:1-18): each arrival goes to the one that is free first.
#[test]
fn two_lanes_are_two_servers() {
    let arrivals = Arrivals::Poisson(900.0);
    let task = Task { lanes: 2, ..open(arrivals.clone()) };
    let (records, ..) = run_task("times=2ms", Rule::given(None, Some(2000)), &task);
    let start = records.latency().start_ns;
    let mut free = [0u64; 2];
    let expected = arrivals.schedule(5).take(2000).map(|arrival| {
        let lane = free.iter_mut().min().unwrap();
        let at = arrival.max(*lane);
        *lane = at + 2_000_000;
        (start + arrival, start + at, start + *lane)
    });
    let mut log = records.log().to_vec();
    log.sort_unstable();
    assert_eq!(log, expected.collect::<Vec<_>>());
}

/// A clock that can be read; each reading takes 1 ms.
struct Clocked(Scripted<Virtual>, Virtual);

impl Workload for Clocked {
    fn prepare(&mut self, sizes: &[usize], lanes: usize) -> Result<()> {
        self.0.prepare(sizes, lanes)
    }

    fn issue(&mut self, lane: usize, batch: usize) -> Result<()> {
        self.0.issue(lane, batch)
    }

    fn wait(&mut self, lane: usize) -> Result<()> {
        self.0.wait(lane)
    }

    fn sm_clock_mhz(&mut self) -> Result<Option<f64>> {
        self.1.sleep_until(self.1.now() + 1_000_000);
        Ok(Some(1500.0))
    }
}

#[test]
fn the_clock_is_read_between_batches_and_makes_none_late() {
    for load in [Load::Closed, Load::Open { arrivals: Arrivals::Constant(100.0) }] {
        let task = Task { load, clock_samples: true, ..Task::closed(1) };
        let clock = Virtual::starting_at(5);
        let mut workload = Clocked(Scripted::new("times=2ms", clock.clone()).unwrap(), clock.clone());
        let control = Control::default();
        let mut window = Window::new(&clock, &mut workload, &task, &control);
        let mut records = Records::new(&task.load, 1, 1);
        window.measure(Rule::given(Some(10_500_000_000), None), &mut records).unwrap();
        assert!((9..=10).contains(&window.clocks().len()), "{}", window.clocks().len());
        let recording = records.latency();
        assert_eq!((recording.min_ns, recording.max_ns), (2_000_000, 2_000_000));
        assert_eq!(records.arrived().map_or(0, |arrived| arrived.late_batches), 0);
    }
}

#[test]
fn a_trace_is_replayed_once() {
    let trace = Arrivals::Trace(vec![0, 500_000, 10_000_000]);
    let (records, ended, _) = run_task("times=1ms", Rule::DEFAULT, &open(trace));
    let start = records.latency().start_ns;
    assert_eq!(ended, Ended::Rule);
    let expected = [(0, 0, 1_000_000), (500_000, 1_000_000, 2_000_000), (10_000_000, 10_000_000, 11_000_000)];
    assert_eq!(records.log(), expected.map(|(a, b, c)| (start + a, start + b, start + c)));
}

/// The next arrival may be far away: the window does not wait for it.
#[test]
fn a_window_ends_in_wait_of_an_arrival() {
    const S: u64 = 1_000_000_000;
    let rule = |min_ns, max_ns| Rule { min_ns, min_batches: 2, max_ns, precision: None };
    for lanes in [1, 2] {
        for (times, rule, batches, seconds) in [
            (vec![S, 60 * S], Rule::given(Some(2 * S), None), 1, 2),
            (vec![60 * S], Rule::given(Some(2 * S), None), 0, 2),
            (vec![S, 60 * S], rule(S, 9 * S), 1, 9),
            (vec![S, 3 * S, 60 * S], rule(7 * S, 9 * S), 2, 7),
        ] {
            let load = Load::Server { arrivals: Arrivals::Trace(times), max_delay_ns: 1000 };
            let (records, ended, _) = run_task("times=1ms", rule, &Task { load, lanes, ..Task::closed(4) });
            let (latency, response) = (records.latency(), records.arrived().unwrap().response);
            assert_eq!((ended, latency.batches), (Ended::Rule, batches), "{rule}");
            assert_eq!(latency.end_ns - latency.start_ns, seconds * S, "{rule}");
            assert_eq!(response.end_ns, latency.end_ns);
        }
    }
}

#[test]
fn a_batch_in_flight_at_the_limit_is_the_last() {
    let trace = Arrivals::Trace(vec![0, 1_999_999_999, 2_000_000_001]);
    let (records, ..) = run_task("times=1ms", Rule::given(Some(2_000_000_000), None), &open(trace));
    let recording = records.latency();
    assert_eq!((recording.batches, recording.end_ns - recording.start_ns), (2, 2_000_999_999));
}

#[test]
fn a_load_beyond_the_lane_ends_early() {
    let (records, ended, _) = run_task("times=1ms", Rule::DEFAULT, &open(Arrivals::Constant(2000.0)));
    assert_eq!(ended, Ended::Saturated);
    let recording = records.latency();
    // The wait grows by half a ms a batch: past 1 s at the 2,001st.
    assert!((1999..=2005).contains(&recording.batches), "{}", recording.batches);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// The server's batches are those of a recursion written down independently of the queue.
    #[test]
    fn a_server_forms_the_batches_of_its_rule(
        gaps in prop::collection::vec(0u64..3_000_000, 1..300),
        batch in 1usize..9,
        delay in 0u64..5_000_000,
        times in prop::collection::vec(100_000u64..6_000_000, 1..4),
        per_sample in 0u64..500_000,
    ) {
        let arrivals: Vec<u64> = gaps.iter().scan(0, |t, gap| { *t += gap; Some(*t) }).collect();
        let load = Load::Server { arrivals: Arrivals::Trace(arrivals.clone()), max_delay_ns: delay };
        let task = Task { load, ..Task::closed(batch) };
        let text: Vec<String> = times.iter().map(|t| format!("{t}ns")).collect();
        let script = format!("times={},per_sample={per_sample}ns", text.join(":"));
        let (records, _, warm_up) = run_task(&script, Rule::given(None, Some(u64::MAX)), &task);
        let start = records.latency().start_ns;

        let (mut first, mut free, mut n, mut expected) = (0, 0, warm_up as usize, Vec::new());
        let mut sizes = vec![0; batch + 1];
        while first < arrivals.len() {
            let full = arrivals.get(first + batch - 1).copied().unwrap_or(u64::MAX);
            let at = free.max(full.min(arrivals[first] + delay));
            let size = arrivals[first..].iter().take(batch).filter(|&&arrival| arrival <= at).count();
            let done = at + times[n % times.len()] + per_sample * size as u64;
            expected.push((start + arrivals[first], start + at, start + done));
            sizes[size] += 1;
            (first, free, n) = (first + size, done, n + 1);
        }
        prop_assert_eq!(records.log(), expected);
        let counted: Vec<_> = (1..=batch).filter(|&s| sizes[s] > 0).map(|s| (s as u64, sizes[s])).collect();
        let arrived = records.arrived().unwrap();
        prop_assert_eq!(arrived.batch_sizes, counted);
        prop_assert_eq!(arrived.response.batches, arrivals.len() as u64);
        prop_assert_eq!(arrived.late_batches, 0);
    }
}
