            for (int i = 0; i < $light_rows; i++) { /* the gates that few units feed: what is not zero alone */
                float sum = 0.0f;
                for (int n = (int)seam_light_starts_$id[i]; n < (int)seam_light_starts_$id[i + 1]; n++)
                    sum += seam_light_$id[n] * state[seam_light_units_$id[n]];
                gate[seam_light_rows_$id[i]] += sum;
            }
