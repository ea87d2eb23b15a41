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

/// Processors for each worker of one run: its own, near its GPU where that is known (`near`, a set for
/// each worker) and allowed. Workers near the same processors divide them; as many as `widest` where
/// all are, so that a narrow run gives a worker no more than the widest does.
pub fn place(cpus: &[usize], near: &[Option<&[usize]>], widest: usize) -> Vec<Vec<usize>> {
    let pool = |near: Option<&[usize]>| -> Vec<usize> {
        let both: Vec<usize> =
            near.unwrap_or_default().iter().copied().filter(|cpu| cpus.contains(cpu)).collect();
        if both.is_empty() { cpus.to_vec() } else { both }
    };
    let pools: Vec<Vec<usize>> = near.iter().map(|near| pool(*near)).collect();
    let all_alike = pools.windows(2).all(|pair| pair[0] == pair[1]);
    let share = |worker: usize| {
        let alike = |range: &[Vec<usize>]| range.iter().filter(|pool| **pool == pools[worker]).count();
        let workers = if all_alike { widest.max(pools.len()) } else { alike(&pools) };
        assign(&pools[worker], workers).swap_remove(alike(&pools[..worker]))
    };
    (0..pools.len()).map(share).collect()
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
    fn each_worker_is_near_its_gpu() {
        let (left, right) = ([0, 1, 2, 3], [4, 5, 6, 7]);
        let cpus: Vec<usize> = (0..7).collect();
        let near = [Some(&left[..]), Some(&right), Some(&left)];
        assert_eq!(place(&cpus, &near, 3), [vec![0, 1], vec![4, 5, 6], vec![2, 3]]);
        assert_eq!(place(&cpus, &near[..1], 2), [vec![0, 1]], "no more than in the widest run");
        assert_eq!(place(&cpus, &[None, None], 2), [vec![0, 1, 2], vec![3, 4, 5, 6]]);
        assert_eq!(place(&[9], &near[..1], 1), [vec![9]], "the near ones are not allowed");
    }

    #[test]
    fn too_few_are_shared_in_turn() {
        assert_eq!(assign(&[4, 5], 3), [vec![4], vec![5], vec![4]]);
        assert_eq!(assign(&[], 2), [Vec::<usize>::new(), vec![]]);
    }
}
