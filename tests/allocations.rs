//! Between the start of a window and its end the harness does not allocate.

use migbench::measure::clock::Monotonic;
use migbench::measure::load::{Arrivals, Load};
use migbench::measure::records::Records;
use migbench::measure::stopping::Rule;
use migbench::measure::window::{Control, Task, Window};
use migbench::workload::Workload;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local!(static ALLOCATIONS: Cell<u64> = const { Cell::new(0) });

// SAFETY: every call is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// No work at all.
struct Nothing;

impl Workload for Nothing {
    fn prepare(&mut self, _: &[usize], _: usize) -> anyhow::Result<()> {
        Ok(())
    }

    fn issue(&mut self, _: usize, _: usize) -> anyhow::Result<()> {
        Ok(())
    }

    fn wait(&mut self, _: usize) -> anyhow::Result<()> {
        Ok(())
    }
}

fn allocations(task: &Task, batches: u64) -> u64 {
    let control = Control::default();
    let mut workload = Nothing;
    let mut records = Records::new(&task.load, task.batch, task.lanes);
    let mut window = Window::new(&Monotonic, &mut workload, task, &control);
    let before = ALLOCATIONS.get();
    window.measure(Rule::given(None, Some(batches)), &mut records).unwrap();
    let after = ALLOCATIONS.get();
    assert_eq!(records.count(), batches);
    after - before
}

#[test]
fn a_window_does_not_allocate() {
    assert_eq!(allocations(&Task::closed(1), 100_000), 0);
    assert_eq!(allocations(&Task { lanes: 4, ..Task::closed(1) }, 100_000), 0);
    let arrivals = Arrivals::Poisson(1e6);
    let open = Task { load: Load::Open { arrivals: arrivals.clone() }, ..Task::closed(1) };
    let server = Task { load: Load::Server { arrivals, max_delay_ns: 1000 }, ..Task::closed(8) };
    // The queue is allocated when the window opens, whatever its length.
    for task in [open, server] {
        assert_eq!(allocations(&task, 10), allocations(&task, 10_000), "{:?}", task.load);
    }
}
