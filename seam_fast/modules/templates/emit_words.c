
/* Takes a character of the composed text; returns whether no more words are wanted. */
static int seam_emit(seam_reader *reader, uint32_t code, size_t begin, size_t end)
{
    switch (seam_kind(code)) {
    case 0: /* letters and the like */
        seam_put_character(reader, code, begin);
        return 0;
    case 1: /* punctuation and symbols are words of their own */
        if (seam_end(reader, begin))
            return 1;
        seam_put_character(reader, code, begin);
        return seam_end(reader, end);
    case 2: /* white space */
        return seam_end(reader, begin);
    default: /* invisible characters are removed */
        return 0;
    }
}
