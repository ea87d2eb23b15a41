// A matrix in memory as the left operand of tile.cuh.
#pragma once

template <class T> struct Matrix {
    const T *x;
    long long stride;
};

template <class T, int BM, int BK, int ROWS> struct MatrixSource {
    const T *from;
    long long stride;
    int m_left, k_left;
    DEVICE MatrixSource(const Matrix<T> &matrix, int row, int column, int m, int k)
        : from(matrix.x + row * matrix.stride + column), stride(matrix.stride), m_left(m - row),
          k_left(k - column) {}
    DEVICE void copy(unsigned to) {
#pragma unroll
        for (int row = 0; row < BM; row += ROWS)
            copy_async(to + row * BK * 2, from + row * stride, m_left > row && k_left > 0);
        from += BK, k_left -= BK;
    }
};
