
/* The embedding: of each row the columns and the values that are kept. */
$embedding_tables

/* Column `step` of the inputs becomes the embedding of a row. */
static void seam_embed(int row, float (*inputs)[SEAM_CHUNK], int step)
{
    for (int c = 0; c < $columns; c++)
        inputs[c][step] = 0.0f;
    for (long k = (long)seam_value_starts[row]; k < (long)seam_value_starts[row + 1]; k++) {
        const $value_type *value = seam_values + k;
        int c = seam_value_columns[k];
        inputs[c][step] = $value;
    }
}
