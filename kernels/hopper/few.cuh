// The products of few rows that skinny.cu and whole.cu share, after hopper.cuh and softmax.cuh: a tile of
// COLUMNS columns and ROWS rows, by steps of 64 along k. The weight is the left operand of the tensor cores,
// whose 16 rows are columns of it; x the right one, whose 8 columns are rows of x. Groups of warps take turns,
// a step for each.
#pragma once

constexpr int STEP = 64, WARPS = 8, THREADS = WARPS * 32;

// Who computes what of a tile.
template <int COLUMNS, int ROWS> struct Shape {
    static constexpr int COLUMN_WARPS = COLUMNS / 16, ROW_WARPS = COLUMNS == 32 && ROWS >= 16 ? 2 : 1;
    static constexpr int GROUP_WARPS = COLUMN_WARPS * ROW_WARPS, GROUPS = WARPS / GROUP_WARPS;
    static constexpr int MY_ROWS = ROWS / ROW_WARPS;
    static constexpr int PITCH = COLUMNS + 8; // of the sums in shared memory
    static constexpr unsigned WEIGHT = STEP * COLUMNS * 2, X = ROWS * STEP * 2;
};

// What a warp has of a tile.
template <class T, int COLUMNS, int ROWS> struct Few {
    using S = Shape<COLUMNS, ROWS>;
    float sum[S::MY_ROWS / 8][4] = {};
    float squares[S::MY_ROWS / 8] = {}; // of x, the part of each row that this lane has seen
    int column, row, group;

    DEVICE Few() {
        const int warp = threadIdx.x / 32;
        column = warp % S::COLUMN_WARPS * 16, row = warp / S::COLUMN_WARPS % S::ROW_WARPS * S::MY_ROWS;
        group = warp / S::GROUP_WARPS;
    }

    // A step, whose weights and rows of x lie in shared memory as the copy engine swizzles them.
    DEVICE void add(unsigned weights, unsigned rows, bool squared = false) {
        constexpr int N = S::MY_ROWS / 8;
        const int lane = threadIdx.x % 32;
        // All loads first: a product waits for its own only.
        unsigned a[STEP / 16][4], b[STEP / 16][N][2];
#pragma unroll
        for (int i = 0; i < STEP / 16; ++i) {
            const int chunk = i * 2 + lane / 8 % 2;
            ldmatrix_transposed(a[i], weights + swizzle<COLUMNS / 8>(i * 16 + lane / 16 * 8 + lane % 8,
                                                                     column / 8 + lane / 8 % 2) * 16);
            if constexpr (N == 1) {
                ldmatrix_two(b[i][0][0], b[i][0][1], rows + swizzle<8>(row + lane % 8, chunk) * 16);
            } else {
#pragma unroll
                for (int j = 0; j < N; j += 2) {
                    unsigned two[4];
                    ldmatrix(two, rows + swizzle<8>(row + j * 8 + lane / 16 * 8 + lane % 8, chunk) * 16);
                    b[i][j][0] = two[0], b[i][j][1] = two[1], b[i][j + 1][0] = two[2], b[i][j + 1][1] = two[3];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < STEP / 16; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) mma<T>(sum[j], a[i], b[i][j][0], b[i][j][1]);
        if (!squared) return;
#pragma unroll
        for (int i = 0; i < STEP / 16; ++i)
#pragma unroll
            for (int j = 0; j < N; ++j) squares[j] += square(b[i][j][0]) + square(b[i][j][1]);
    }

    // Stores the sums as part `part` of several, each ROWS rows of PITCH numbers, by `put(address, number)`.
    template <class Put> DEVICE void store(unsigned to, int part, Put put) const {
        const int lane = threadIdx.x % 32;
        to += ((part * ROWS + row + lane % 4 * 2) * S::PITCH + column + lane / 4) * 4;
#pragma unroll
        for (int i = 0; i < S::MY_ROWS / 8; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e)
                put(to + ((i * 8 + e % 2) * S::PITCH + e / 2 * 8) * 4, sum[i][e]);
    }

    // The squares beside them, in the padding of each row.
    template <class Put> DEVICE void store_squares(unsigned to, int part, Put put) const {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < S::MY_ROWS / 8; ++i) {
            const float all = quad_sum(squares[i]);
            if (lane % 4 == 0) put(to + ((part * ROWS + row + i * 8 + lane / 4) * S::PITCH + COLUMNS) * 4, all);
        }
    }

    DEVICE static float square(unsigned two) {
        float a, b;
        unpack<T>(two, a, b);
        return a * a + b * b;
    }
};
