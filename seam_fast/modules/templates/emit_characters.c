
/* Takes a character of the composed text; returns whether no more words are wanted. A run of white space is one space
   where characters are before and after it. */
static int seam_emit(seam_reader *reader, uint32_t code, size_t begin, size_t end)
{
    if (seam_kind(code) == 2) {
        if (reader->gap == 1) {
            reader->gap = 2;
            reader->space = begin;
        }
        return 0;
    }
    if (reader->gap == 2) {
        seam_put(reader, ' ', reader->space);
        if (seam_end(reader, begin))
            return 1;
    }
    reader->gap = 1; /* 0: no character yet; 1: after a character; 2: white space after one */
    seam_put_character(reader, code, begin);
    return seam_end(reader, end);
}
