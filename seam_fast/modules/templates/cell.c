
/* $title */
$tables

/* Reads `steps` $what$of, and writes the output after each of them to out + (its number) * stride. */
static void seam_cell_$id($source, int steps, float *out, int stride)
{
    float gates[SEAM_CHUNK][$gates]$inputs, state[$hidden] = {0}, memory[$hidden] = {0};
    for (int first = 0; first < steps; first += SEAM_CHUNK) {
        int some = steps - first < SEAM_CHUNK ? steps - first : SEAM_CHUNK;
        for (int k = 0; k < some; k++) {
            int t = $time;
            $take
        }
$project        for (int k = 0; k < some; k++) {
            float *gate = gates[k];
$recur            seam_tanh_$gates(gate); /* of input, forget and output gate the sigmoid is (tanh(x / 2) + 1) / 2 */
            for (int j = 0; j < $hidden; j++) {
                float forget = gate[$hidden + j] + 1.0f, write = gate[j] + 1.0f;
                memory[j] = 0.5f * (forget * memory[j] + write * gate[2 * $hidden + j]);
                state[j] = memory[j];
            }
            seam_tanh_$hidden(state);
            for (int j = 0; j < $hidden; j++)
                state[j] *= 0.5f * (gate[3 * $hidden + j] + 1.0f);
            int t = $time;
            for (int j = 0; j < $units; j++)
                out[t * stride + j] = state[j];
        }
    }
}
