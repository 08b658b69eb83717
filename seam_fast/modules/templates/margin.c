
$output_tables

float seam_margin(const seam_word *words, int count)
{
    int rows[SEAM_MAX_LENGTH];
    float state[$width];
    if (count > SEAM_MAX_LENGTH)
        count = SEAM_MAX_LENGTH;
    for (int t = 0; t < count; t++)
        rows[t] = words[t].row;
    if (count <= 0) { /* a text without words is read as $empty */
        rows[0] = $empty_row;
        count = 1;
    }
$fill$cells    float margin = $constant;
    for (int j = 0; j < $width; j++)
        margin += seam_direct[j] * state[j];
    for (int k = 0; k < $classes; k++) {
        float sum = seam_output_bias[k];
        for (int j = 0; j < $width; j++)
            sum += seam_output[k * $width + j] * state[j];
        if (sum > 0.0f)
            margin += sum * seam_output_out[k];
    }
    return margin;
}

float seam_sigmoid(float margin)
{
    float half = 0.5f * margin;
    seam_tanh_1(&half);
    return 0.5f * (half + 1.0f);
}

float seam_probability_of(const char *text, size_t length)
{
    seam_word words[SEAM_MAX_LENGTH];
    return seam_sigmoid(seam_margin(words, seam_words(text, length, words, SEAM_MAX_LENGTH)));
}

float seam_probability(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return seam_probability_of(text, length);
}
