// Steps on their way from device to shared memory, for whole.cu, after hopper.cuh and few.cuh.
#pragma once

// An even number of stages of SIZE bytes in shared memory, which one warp fills round after round: where a
// thread is. Two groups of warps take turns to use them, so that each has stages of its own.
template <int STAGES, unsigned SIZE> struct Ring {
    static_assert(STAGES % GROUPS == 0, "a stage is always the same group's");
    unsigned stages, barriers; // addresses; of each stage a barrier for full, then of each one for empty
    int stage, turn = 0;       // the parity of the rounds before

    DEVICE void init() const {
        for (int s = 0; s < STAGES; ++s)
            barrier_init(barriers + 8 * s, 1), barrier_init(barriers + 8 * (STAGES + s), WARPS / GROUPS);
    }
    DEVICE unsigned at() const { return stages + stage * SIZE; }
    DEVICE unsigned full() const { return barriers + 8 * stage; }
    DEVICE unsigned empty() const { return barriers + 8 * (STAGES + stage); }
    DEVICE void wait_until_full() const { barrier_wait(full(), turn); }
    DEVICE void wait_until_empty() const { barrier_wait(empty(), turn ^ 1); }
    // Returns when what was copied so many steps before has landed, at most STAGES: the warp that fills the ring has
    // so many on their way then.
    DEVICE void wait_until_landed(int before) const {
        const bool last_round = before > stage;
        barrier_wait(barriers + 8 * (stage - before + last_round * STAGES), turn ^ last_round);
    }
    DEVICE void go_on(int steps) {
        stage += steps;
        if (stage >= STAGES) stage -= STAGES, turn ^= 1;
    }
};
