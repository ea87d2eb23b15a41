//! Between the start of a window and its end the harness does not allocate.

use migbench::measure::clock::Monotonic;
use migbench::measure::recorder::Recorder;
use migbench::measure::stopping::Rule;
use migbench::measure::window::{Control, Window};
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

#[test]
fn a_window_does_not_allocate() {
    let control = Control::default();
    let mut workload = Nothing;
    let mut recorder = Recorder::new();
    let mut window = Window::new(&Monotonic, &mut workload, 1, &control);
    let before = ALLOCATIONS.get();
    window.measure(Rule::given(None, Some(100_000)), &mut recorder).unwrap();
    assert_eq!(ALLOCATIONS.get() - before, 0);
    assert_eq!(recorder.count(), 100_000);
}
