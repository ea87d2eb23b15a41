// Convolution of an image with square windows as a matrix product (an implicit one: the windows are
// never laid out in memory): out = activation(windows · weight + bias + residual).
//
// Images are NHWC. Row m of the left operand is the window at position m of all samples, pixel by
// pixel; `channels` is a multiple of 8, so that 16 bytes always belong to one pixel. The weight is
// (kernel² · channels) x n. src/workload/cuda/tiles.rs lists the tiles below and chooses among them.

#include "number.cuh"
#include "overlap.cuh"
#include "tile.cuh"

template <class T> struct Image {
    const T *x;
    int side, channels, kernel, stride, padding, positions;
};

template <class T, int BM, int BK, int ROWS> struct ImageSource {
    static constexpr int COPIES = BM / ROWS;
    const T *x;
    int side, channels, kernel;
    // Of each row that this thread copies: the window's first pixel, which may lie outside, as a number
    // among the pixels of all samples and as two coordinates.
    int pixel[COPIES], top[COPIES], left[COPIES];
    // What of the window comes next: a pixel of it, and a channel.
    int across = 0, down = 0, channel;

    DEVICE ImageSource(const Image<T> &image, int row, int column, int m, int k)
        : x(image.x), side(image.side), channels(image.channels), kernel(image.kernel), channel(column) {
        const int positions = image.positions;
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const int position = row + i * ROWS;
            const int sample = position / (positions * positions), rest = position % (positions * positions);
            top[i] = rest / positions * image.stride - image.padding;
            left[i] = rest % positions * image.stride - image.padding;
            pixel[i] = (sample * side + top[i]) * side + left[i];
            if (position >= m) top[i] = -65536; // never inside
        }
        settle();
    }
    DEVICE void settle() {
        while (channel >= channels) {
            channel -= channels;
            if (++across == kernel) across = 0, ++down;
        }
    }
    DEVICE void copy(unsigned to) {
        const int offset = down * side + across;
#pragma unroll
        for (int i = 0; i < COPIES; ++i) {
            const bool inside = down < kernel && (unsigned)(top[i] + down) < (unsigned)side &&
                                (unsigned)(left[i] + across) < (unsigned)side;
            copy_async(to + i * ROWS * BK * 2, x + (long long)(pixel[i] + offset) * channels + channel, inside);
        }
        channel += BK;
        settle();
    }
};

#define TILE(name, BM, BN, BK, WM, WN, WK, STAGES)                                                       \
    extern "C" __global__ void __launch_bounds__(32 * WM * WN * WK)                                     \
        ENTRY(conv_##name)(const NUMBER *x, const NUMBER *weight, const NUMBER *bias,                   \
                           const NUMBER *residual, NUMBER *out, int m, int n, int side, int channels,   \
                           int kernel, int stride, int padding, int positions, int activation) {        \
        product<NUMBER, ImageSource, Image<NUMBER>, BM, BN, BK, WM, WN, WK, STAGES>(                    \
            {x, side, channels, kernel, stride, padding, positions}, weight,                            \
            {bias, residual, out, activation}, m, n, kernel * kernel * channels);                       \
    }

//            BM   BN   BK  WM WN WK STAGES
TILE(128x128, 128, 128, 64, 2, 4, 1, 3) // Hopper too
TILE(128x64, 128, 64, 64, 4, 2, 1, 4) // Hopper too
TILE(64x64, 64, 64, 64, 2, 2, 2, 4) // Hopper too
TILE(32x64, 32, 64, 64, 1, 2, 2, 4) // Hopper too
TILE(32x32, 32, 32, 128, 1, 1, 4, 4) // Hopper too
