
/* The words that have a row of their own are found by a hash table with open addressing: row numbers, 0 where a slot is
   empty. Word `row` stands in seam_letters from seam_word_starts[row - 1] to seam_word_starts[row]. */
$kept_tables

/* The row of a word: 0 where nothing of it is kept, -1 where the module does not know it. */
static int seam_row(const unsigned char *word, int length)
{
    if (length > SEAM_LONGEST)
        return -1;
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (int k = 0; k < length; k++)
        hash = (hash ^ word[k]) * 16777619u;
    hash *= 2654435769u; /* the slot is taken from the high bits */
    int slot = (int)(((uint64_t)hash * SEAM_SLOTS) >> 32);
    while (seam_slots[slot]) {
        int row = seam_slots[slot], k = 0;
        const unsigned char *letters = seam_letters + seam_word_starts[row - 1];
        if ((long)(seam_word_starts[row] - seam_word_starts[row - 1]) == length) {
            while (k < length && letters[k] == word[k])
                k++;
            if (k == length)
                return row;
        }
        slot = slot + 1 < SEAM_SLOTS ? slot + 1 : 0;
    }
    return seam_is_dropped(word, length) ? 0 : -1;
}
