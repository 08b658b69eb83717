
/* The embedding: of each row a bit a column, whether its value is kept, and the kept values. */
$embedding_tables

/* Column `step` of the inputs becomes the embedding of a row. */
static void seam_embed(int row, float (*inputs)[SEAM_CHUNK], int step)
{
    const unsigned char *bits = seam_kept + (size_t)row * SEAM_KEPT_BYTES;
    const $value_type *value = seam_values + seam_value_starts[row];
    for (int c = 0; c < $columns; c++) {
        int kept = bits[c >> 3] >> (c & 7) & 1;
        inputs[c][step] = $value * (float)kept; /* without a branch, which could not be predicted */
        value += kept;
    }
}
