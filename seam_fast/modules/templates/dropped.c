
/* -- words ----------------------------------------------------------------------------------------------------------- */

/* The words of which nothing is kept, sorted, in blocks. Of each word: how many bytes it shares with the one before it
   in its block and how many follow (four bits each; 15 means that further bytes are added, up to one that is not 255),
   then those that follow. */
$dropped_tables

static const unsigned char *seam_count(const unsigned char *at, int *count)
{
    if (*count == 15)
        do
            *count += *at;
        while (*at++ == 255);
    return at;
}

/* Whether the module knows a word of which it keeps nothing. Only such a word is not the same as an unknown one. */
static int seam_is_dropped(const unsigned char *word, int length)
{
    int low = 0, high = SEAM_BLOCKS; /* the block is in low .. high - 1, if it is in any */
    while (high - low > 1) {
        int middle = (low + high) / 2, size = seam_dropped[seam_block_starts[middle]] & 15, k = 0;
        const unsigned char *head = seam_count(seam_dropped + seam_block_starts[middle] + 1, &size);
        while (k < size && k < length && head[k] == word[k])
            k++;
        if (k < size && (k == length || head[k] > word[k]))
            high = middle; /* the block begins after the word */
        else
            low = middle;
    }
    const unsigned char *at = seam_dropped + seam_block_starts[low], *end = seam_dropped + seam_block_starts[low + 1];
    int matched = 0; /* bytes in which the word before, which is smaller, agrees with the one that is looked for */
    while (at < end) {
        int shared = *at >> 4, size = *at & 15;
        at = seam_count(at + 1, &shared);
        at = seam_count(at, &size);
        if (shared < matched)
            return 0;
        if (shared == matched) {
            int k = 0;
            while (k < size && matched < length && at[k] == word[matched])
                k++, matched++;
            if (k == size && matched == length)
                return 1;
            if (k < size && (matched == length || at[k] > word[matched]))
                return 0;
        }
        at += size;
    }
    return 0;
}
