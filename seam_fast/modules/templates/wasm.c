
#ifdef SEAM_WASM

/* What the page calls. The page puts a text behind the program's own memory; the words of the last text are kept, with
   one more than are read, which tells that there are more. */
static seam_word seam_page_words[SEAM_MAX_LENGTH + 1];
static int seam_page_count;

int seam_page_read(const char *text, int length)
{
    return seam_page_count = seam_words(text, (size_t)length, seam_page_words, SEAM_MAX_LENGTH + 1);
}

int seam_page_begin(int word)
{
    return (int)seam_page_words[word].begin;
}

int seam_page_end(int word)
{
    return (int)seam_page_words[word].end;
}

int seam_page_row(int word)
{
    return seam_page_words[word].row;
}

/* The probability of the words that are read without one of them; with all of them for -1. No word after them comes in,
   so that what changes is due to the one that is left out. */
float seam_page_without(int word)
{
    seam_word words[SEAM_MAX_LENGTH];
    int count = 0;
    for (int k = 0; k < seam_page_count && k < SEAM_MAX_LENGTH; k++)
        if (k != word)
            words[count++] = seam_page_words[k];
    return seam_sigmoid(seam_margin(words, count));
}

#endif
