//! Which processors each worker gets. Pure.

/// Divides `cpus` among `workers`: neighbours in the list stay together, as even as can be; shared in
/// turn where there are fewer processors than workers.
pub fn assign(cpus: &[usize], workers: usize) -> Vec<Vec<usize>> {
    if cpus.len() < workers {
        let cpu = |worker: usize| cpus.get(worker % cpus.len().max(1)).into_iter().copied().collect();
        return (0..workers).map(cpu).collect();
    }
    let edge = |worker: usize| worker * cpus.len() / workers;
    (0..workers).map(|worker| cpus[edge(worker)..edge(worker + 1)].to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_divided_evenly_and_none_twice() {
        assert_eq!(assign(&[0, 1, 2, 3, 8], 2), [vec![0, 1], vec![2, 3, 8]]);
        for workers in 1..=16 {
            let parts = assign(&(0..16).collect::<Vec<_>>(), workers);
            let mut all = parts.concat();
            all.sort_unstable();
            assert_eq!(all, (0..16).collect::<Vec<_>>());
            let sizes = || parts.iter().map(Vec::len);
            assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
        }
    }

    #[test]
    fn too_few_are_shared_in_turn() {
        assert_eq!(assign(&[4, 5], 3), [vec![4], vec![5], vec![4]]);
        assert_eq!(assign(&[], 2), [Vec::<usize>::new(), vec![]]);
    }
}
