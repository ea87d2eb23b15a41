//! `migbench calibrate` and `run --preset ci`.

mod common;

use common::Bench;

const SHORT: [&str; 8] =
    ["--workload", "scripted(times=1ms:3ms)", "--batch", "1", "--batches", "800", "-q", "-o"];

#[test]
fn sessions_are_added_to_one_file_and_their_noise_is_shown() {
    let bench = Bench::new();
    let calibrate = |more: &[&str]| bench.run(&[&["calibrate"], &SHORT[..], &["noise.csv"], more].concat());
    let first = calibrate(&[]);
    assert_eq!(first.code, Some(0), "{}{}", first.stdout, first.stderr);
    assert!(first.stdout.contains("least threshold"), "{}", first.stdout);
    assert!(first.stdout.contains("the noise between sessions is unknown"), "{}", first.stdout);
    assert_eq!(bench.rows("noise.csv").len(), 7);
    let second = calibrate(&["--repeat", "3"]);
    assert_eq!((second.code, bench.rows("noise.csv").len()), (Some(0), 10), "{}", second.stderr);
    assert!(!second.stdout.contains("is unknown"), "{}", second.stdout);
    let line = second.stdout.lines().find(|line| line.contains("throughput_wall")).unwrap();
    // Scripted times do not move at all.
    assert!(line.contains("2      10  0.00 %   0.00 %"), "{line}");
    let ran = bench.run(&["compare", "noise.csv", "noise.csv", "--noise", "noise.csv"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert!(!ran.stdout.contains("between sessions is unknown"), "{}", ran.stdout);
}

#[test]
fn it_needs_a_file_that_stays() {
    let bench = Bench::new();
    for more in [&["calibrate", "-q"][..], &["calibrate", "-q", "-o", "-"]] {
        let ran = bench.run(more);
        assert_eq!(ran.code, Some(2));
        assert!(ran.stderr.contains("name it with --output"), "{}", ran.stderr);
    }
}

/// On the CPU its workload is the CPU's default: the suite's weights are for a GPU.
#[test]
fn the_preset_for_ci_is_seven_rounds() {
    let bench = Bench::new();
    let planned = |more: &[&str]| {
        let ran = bench.run(&[&["--preset", "ci", "--batch", "1", "--list-runs", "-q"], more].concat());
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stdout
    };
    assert_eq!(planned(&[]).lines().count(), 7);
    assert_eq!(planned(&["--repeat", "2"]).lines().count(), 2);
    std::fs::write(
        bench.path("there.txt"),
        "GPU 0: NVIDIA H200 (UUID: GPU-5a5a0000-0000-4000-8000-00000000000a)\n",
    )
    .unwrap();
    let suite = planned(&["--topology", "there.txt"]);
    for name in ["bert-base", "resnet50", "llama-decode"] {
        assert_eq!(suite.matches(name).count(), 7, "{suite}");
    }
}
