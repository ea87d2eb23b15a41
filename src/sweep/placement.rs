//! Which processors each worker gets, and whether there are enough of them to spin. Pure.
//!
//! Both follow from the machine: from the processors near each GPU and from the largest layout that its
//! card can have. They do not depend on how many instances happen to be measured, so that a row of one
//! instance means the same alone, beside others, and in another layout of the card.

use crate::machine::{Instance, InstanceKind};

/// What placement needs to know of one GPU of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuSlots {
    /// `GPU-…`.
    pub uuid: String,
    /// The processors near it; empty where that is not known.
    pub near: Vec<usize>,
    /// The most instances that its card can be cut into; 1 where it knows no MIG.
    pub largest_layout: usize,
    /// The UUIDs of its MIG devices, in the driver's order.
    pub instances: Vec<String>,
}

/// The processors of a machine, in slots: one for each instance that its cards can be cut into.
#[derive(Clone, Debug)]
pub struct Slots<'a> {
    cpus: &'a [usize],
    gpus: &'a [GpuSlots],
    /// Workers on one instance.
    sharing: usize,
}

impl<'a> Slots<'a> {
    /// Divides those of `cpus` that are near each GPU; all of them where none are, or that is not known.
    /// An instance that `sharing` workers share has as many slots.
    pub fn new(cpus: &'a [usize], gpus: &'a [GpuSlots], sharing: usize) -> Slots<'a> {
        Slots { cpus, gpus, sharing: sharing.max(1) }
    }

    /// Is there a processor for each slot?
    pub fn are_enough(&self) -> bool {
        let mut needed = self.gpus.iter().map(|gpu| (self.pool(gpu).len(), self.before(None, gpu)));
        needed.all(|(cpus, slots)| slots <= cpus) && !self.cpus.is_empty()
    }

    /// The processors of a worker, the `number`-th of those on its instance, from 0.
    pub fn of(&self, instance: &Instance, number: usize) -> Vec<usize> {
        let uuid = instance.gpu_uuid.as_deref();
        let Some(at) = self.gpus.iter().position(|gpu| uuid == Some(&*gpu.uuid)) else {
            return self.cpus.to_vec();
        };
        let gpu = &self.gpus[at];
        let pool = self.pool(gpu);
        let own = |mig: &String| instance.mig_uuid.as_ref() == Some(mig);
        let place = gpu.instances.iter().position(own).unwrap_or(0).min(gpu.largest_layout.max(1) - 1);
        let first = self.before(Some(at), gpu);
        // A whole GPU has the slots of all instances that it could be cut into.
        let (first, count) = match instance.kind {
            InstanceKind::Gpu => {
                let each = gpu.largest_layout.max(1);
                (first + number % self.sharing * each, each)
            }
            _ => (first + place * self.sharing + number % self.sharing, 1),
        };
        take(&pool, self.before(None, gpu), first, count)
    }

    /// The processors that the workers of a GPU may use.
    fn pool(&self, gpu: &GpuSlots) -> Vec<usize> {
        let near: Vec<usize> = gpu.near.iter().copied().filter(|cpu| self.cpus.contains(cpu)).collect();
        if near.is_empty() { self.cpus.to_vec() } else { near }
    }

    /// The slots, of GPUs with the same processors as this one, of those in front of number `end`; of all
    /// without one.
    fn before(&self, end: Option<usize>, gpu: &GpuSlots) -> usize {
        let pool = self.pool(gpu);
        let gpus = self.gpus.iter().take(end.unwrap_or(self.gpus.len()));
        let alike = gpus.filter(|other| self.pool(other) == pool);
        alike.map(|gpu| gpu.largest_layout.max(1) * self.sharing).sum()
    }
}

/// The processors of slots `first` and following, of `slots` that divide `pool`: equally many each; in
/// turn where there are fewer processors than slots.
fn take(pool: &[usize], slots: usize, first: usize, count: usize) -> Vec<usize> {
    let each = pool.len() / slots.max(1);
    if each > 0 {
        return pool[first * each..(first + count) * each].to_vec();
    }
    let mut cpus: Vec<usize> =
        (first..first + count).filter_map(|slot| pool.get(slot % pool.len().max(1)).copied()).collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(name: &str, near: &[usize], largest_layout: usize, instances: usize) -> GpuSlots {
        let instances = (0..instances).map(|i| format!("MIG-{name}-{i}")).collect();
        GpuSlots { uuid: format!("GPU-{name}"), near: near.to_vec(), largest_layout, instances }
    }

    fn mig(gpu: &str, number: usize) -> Instance {
        Instance {
            kind: InstanceKind::Mig,
            gpu_uuid: Some(format!("GPU-{gpu}")),
            mig_uuid: Some(format!("MIG-{gpu}-{number}")),
            ..Instance::default()
        }
    }

    fn whole(gpu: &str) -> Instance {
        let gpu_uuid = Some(format!("GPU-{gpu}"));
        Instance { kind: InstanceKind::Gpu, gpu_uuid, ..Instance::default() }
    }

    #[test]
    fn layouts_of_a_card_differ_neither_in_waiting_nor_in_the_share_of_processors() {
        for cpus in [2, 7, 16, 64] {
            let cpus: Vec<usize> = (0..cpus).collect();
            let layouts = [0, 1, 3, 7].map(|instances| vec![gpu("a", &[], 7, instances)]);
            for gpus in &layouts {
                let slots = Slots::new(&cpus, gpus, 1);
                assert_eq!(slots.are_enough(), cpus.len() >= 7, "{gpus:?}");
                for number in 0..gpus[0].instances.len() {
                    let place = slots.of(&mig("a", number), 0);
                    assert_eq!(place.len(), (cpus.len() / 7).max(1), "{gpus:?}");
                    assert!(place.iter().all(|cpu| cpus.contains(cpu)));
                }
            }
        }
    }

    #[test]
    fn no_processor_is_given_twice_where_there_are_enough() {
        let cpus: Vec<usize> = (0..32).collect();
        let (left, right): (Vec<usize>, Vec<usize>) = cpus.iter().partition(|&&cpu| cpu < 20);
        let gpus =
            [gpu("a", &left, 7, 7), gpu("b", &right, 4, 4), gpu("c", &left, 7, 3), gpu("d", &left, 1, 0)];
        let slots = Slots::new(&cpus, &gpus, 1);
        assert!(slots.are_enough());
        let on =
            |name: &str, count: usize| (0..count).map(|i| slots.of(&mig(name, i), 0)).collect::<Vec<_>>();
        let mut all = [on("a", 7), on("b", 4), on("c", 3), vec![slots.of(&whole("d"), 0)]].concat();
        assert!(all.iter().take(7).all(|place| place.iter().all(|cpu| left.contains(cpu))));
        assert_eq!(all[7], [20, 21, 22], "12 processors for 4 slots");
        all.sort();
        let flat = all.concat();
        let distinct: std::collections::BTreeSet<_> = flat.iter().collect();
        assert_eq!(distinct.len(), flat.len());
    }

    #[test]
    fn a_whole_gpu_has_the_slots_of_all_its_instances() {
        let cpus: Vec<usize> = (0..16).collect();
        let gpus = [gpu("a", &[], 7, 0)];
        assert_eq!(Slots::new(&cpus, &gpus, 1).of(&whole("a"), 0), (0..14).collect::<Vec<_>>());
        // Two workers on it divide them.
        let shared = Slots::new(&cpus, &gpus, 2);
        assert_eq!(
            (shared.of(&whole("a"), 0), shared.of(&whole("a"), 1)),
            ((0..7).collect(), (7..14).collect())
        );
    }

    #[test]
    fn workers_on_one_instance_have_slots_of_their_own() {
        let cpus: Vec<usize> = (0..16).collect();
        let gpus = [gpu("a", &[], 7, 2)];
        let slots = Slots::new(&cpus, &gpus, 2);
        let places: Vec<_> = [(0, 0), (0, 1), (1, 0)].map(|(i, n)| slots.of(&mig("a", i), n)).into();
        assert_eq!(places, [vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn too_few_are_shared_in_turn() {
        let gpus = [gpu("a", &[], 7, 7)];
        let slots = Slots::new(&[4, 5], &gpus, 1);
        assert!(!slots.are_enough());
        assert_eq!([0, 1, 2].map(|i| slots.of(&mig("a", i), 0)), [[4], [5], [4]]);
        assert_eq!(Slots::new(&[4, 5], &[gpu("a", &[], 7, 0)], 1).of(&whole("a"), 0), [4, 5]);
        let near = [gpu("a", &[0, 1], 1, 0)];
        assert_eq!(Slots::new(&[9], &near, 1).of(&whole("a"), 0), [9], "the near ones are not allowed");
        assert!(!Slots::new(&[], &gpus, 1).are_enough());
        assert_eq!(Slots::new(&[], &gpus, 1).of(&mig("a", 0), 0), Vec::<usize>::new());
    }
}
