
/* -- from text to words ---------------------------------------------------------------------------------------------- */

typedef struct {
    seam_word *words;
    int most, count; /* room for words, and words found */
    unsigned length; /* bytes of the word that is being read; above SEAM_LONGEST the vocabulary has no such word */
    size_t begin;    /* where it begins in the text */
    unsigned char bytes[SEAM_LONGEST];$reader_fields
} seam_reader;

/* Adds a byte to the word that is being read; `at`: where that is in the text. */
static void seam_put(seam_reader *reader, unsigned byte, size_t at)
{
    if (reader->length == 0)
        reader->begin = at;
    if (reader->length < SEAM_LONGEST)
        reader->bytes[reader->length] = (unsigned char)byte;
    if (reader->length <= SEAM_LONGEST)
        reader->length++;
}

/* Ends the word that is being read, if there is one; returns whether no more words are wanted. */
static int seam_end(seam_reader *reader, size_t end)
{
    if (reader->length == 0)
        return 0;
    int row = seam_row(reader->bytes, (int)reader->length);
    reader->length = 0;
    if (row < 0) {
        $unknown
    }
    seam_word *word = reader->words + reader->count;
    word->begin = reader->begin;
    word->end = end;
    word->row = row;
    return ++reader->count == reader->most;
}

/* The character at text[*at], and moves on. As much as could begin a character but is cut short is one U+FFFD, and so is
   any other byte that is not UTF-8. */
static uint32_t seam_character(const unsigned char *text, size_t length, size_t *at)
{
    unsigned lead = text[(*at)++], low = 0x80, high = 0xBF;
    uint32_t code;
    int more;
    if (lead < 0x80)
        return lead;
    if (lead >= 0xC2 && lead <= 0xDF)
        code = lead & 0x1F, more = 1;
    else if (lead >= 0xE0 && lead <= 0xEF)
        code = lead & 0x0F, more = 2;
    else if (lead >= 0xF0 && lead <= 0xF4)
        code = lead & 0x07, more = 3;
    else
        return 0xFFFD;
    if (lead == 0xE0)
        low = 0xA0; /* what is shorter in two bytes */
    if (lead == 0xED)
        high = 0x9F; /* surrogates */
    if (lead == 0xF0)
        low = 0x90;
    if (lead == 0xF4)
        high = 0x8F; /* above U+10FFFF */
    for (; more; more--, low = 0x80, high = 0xBF) {
        if (*at == length || text[*at] < low || text[*at] > high)
            return 0xFFFD;
        code = code << 6 | (text[(*at)++] & 0x3F);
    }
    return code;
}
