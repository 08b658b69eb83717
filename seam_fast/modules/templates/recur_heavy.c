            float sums[$heavy] = {0}; /* of the gates that many units feed: their weights with the zeros, a column a unit */
            for (int j = 0; j < $hidden; j += 4) {
                const float *w = seam_heavy_$id + j * $heavy;
                float a = state[j], b = state[j + 1], c = state[j + 2], d = state[j + 3];
                for (int i = 0; i < $heavy; i++)
                    sums[i] += a * w[i] + b * w[$heavy + i] + (c * w[2 * $heavy + i] + d * w[3 * $heavy + i]);
            }
            for (int i = 0; i < $heavy_rows; i++)
                gate[seam_heavy_rows_$id[i]] += sums[i];
