
/* gates[step][row] = bias[row] + weights[row] . inputs[.][step], for all steps of a chunk. The weights that are zero are
   left out; the others of a row stand in groups of four, filled up with zeros, the columns beside them. */
static void seam_project(int rows, const float *bias, const $start_type *starts, const $column_type *columns,
                         const float *weights, float (*inputs)[SEAM_CHUNK], float *gates)
{
    for (int row = 0; row < rows; row++) {
        float sums[SEAM_CHUNK];
        for (int step = 0; step < SEAM_CHUNK; step++)
            sums[step] = bias[row];
        for (long k = (long)starts[row] * 4; k < (long)starts[row + 1] * 4; k += 4) {
            const float *w = weights + k;
            const float *a = inputs[columns[k]], *b = inputs[columns[k + 1]], *c = inputs[columns[k + 2]];
            const float *d = inputs[columns[k + 3]];
            for (int step = 0; step < SEAM_CHUNK; step++)
                sums[step] += w[0] * a[step] + w[1] * b[step] + (w[2] * c[step] + w[3] * d[step]);
        }
        for (int step = 0; step < SEAM_CHUNK; step++)
            gates[(size_t)step * (size_t)rows + (size_t)row] = sums[step];
    }
}
