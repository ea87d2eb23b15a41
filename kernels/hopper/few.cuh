// The products of few rows that skinny.cu and whole.cu share, after number.cuh and hopper.cuh: a tile of
// COLUMNS columns and ROWS rows, by steps of 64 along k. Two groups of four warps take turns. The tensor cores
// read 64 rows of x, whatever lies behind the first ones; a row of the result has nothing of another.
#pragma once

constexpr int STEP = 64, WARPS = 8, THREADS = WARPS * 32, GROUP = 4 * 32, GROUPS = THREADS / GROUP;

// What lies in shared memory: bytes of a step, and the numbers of a row of sums.
template <int COLUMNS, int ROWS> struct Shape {
    static constexpr unsigned WEIGHT = STEP * COLUMNS * 2, X = ROWS * STEP * 2;
    static constexpr int PITCH = COLUMNS + 8;
};

// What a thread has of a tile, of which its group adds some of the steps.
template <class T, int COLUMNS, int ROWS> struct Few {
    using S = Shape<COLUMNS, ROWS>;
    static constexpr int SHARERS = GROUP / ROWS; // threads that share a row of x
    float sum[COLUMNS / 2] = {};
    float squares = 0; // of x: this thread's part of a row
    int group = threadIdx.x / GROUP;

    // STEPS steps, whose weights and rows of x lie in shared memory as the copy engine swizzles them.
    template <int STEPS> DEVICE void add(unsigned weights, unsigned x, bool squared = false) {
        const unsigned my_x = uniform(x), my_weights = uniform(weights);
        const unsigned long long a = descriptor<STEP * 2>(my_x, 16, 8 * STEP * 2);
        const unsigned long long b = descriptor<COLUMNS * 2>(my_weights, 16, 8 * COLUMNS * 2);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < STEPS; ++step)
#pragma unroll
            for (int part = 0; part < STEP / 16; ++part)
                // 16 of k are 32 bytes of a row of x, and 16 rows of the weight.
                Wgmma<T, COLUMNS>::run(sum, a + step * S::X / 16 + part * 2,
                                       b + step * S::WEIGHT / 16 + part * 2 * COLUMNS, 1);
        wgmma_commit();
        if (squared)
#pragma unroll
            for (int step = 0; step < STEPS; ++step) add_squares(x + step * S::X);
        wgmma_wait<0>();
    }

    DEVICE void add_squares(unsigned x) {
        const int row = threadIdx.x % GROUP / SHARERS;
#pragma unroll
        for (int chunk = threadIdx.x % SHARERS; chunk < STEP / 8; chunk += SHARERS) {
            float v[8];
            unpack8<T>(load_shared(x + swizzle<STEP / 8>(row, chunk) * 16), v);
#pragma unroll
            for (int i = 0; i < 8; ++i) v[i] *= v[i];
            squares += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
        }
    }
    // Over the threads that share a row.
    DEVICE void add_up_squares() {
#pragma unroll
        for (int apart = SHARERS / 2; apart > 0; apart /= 2) squares += __shfl_xor_sync(0xffffffff, squares, apart);
    }

    // Calls act(address, two numbers) for each of this thread's sums, in part `part` of several, which has ROWS
    // rows of PITCH numbers; and if `squared`, for the squares, in the padding of each row.
    template <class Act> DEVICE void each(unsigned sums, int part, bool squared, Act act) {
        const int warp = threadIdx.x % GROUP / 32, lane = threadIdx.x % 32, row = warp * 16 + lane / 4;
        sums += part * ROWS * S::PITCH * 4;
#pragma unroll
        for (int half = 0; half < 2; ++half)
            if (row + half * 8 < ROWS)
#pragma unroll
                for (int j = 0; j < COLUMNS / 8; ++j)
                    act(sums + ((row + half * 8) * S::PITCH + j * 8 + lane % 4 * 2) * 4, &sum[j * 4 + half * 2]);
        float two[2] = {squares, 0};
        if (squared && threadIdx.x % SHARERS == 0)
            act(sums + (threadIdx.x % GROUP / SHARERS * S::PITCH + COLUMNS) * 4, two);
        squares = two[0];
    }
};
