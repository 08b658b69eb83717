
/* Adds a character to the word that is being read. */
static void seam_put_character(seam_reader *reader, uint32_t code, size_t at)
{
    if (code < 0x80) {
        seam_put(reader, code, at);
        return;
    }
    if (code < 0x800) {
        seam_put(reader, 0xC0 | code >> 6, at);
    } else {
        if (code < 0x10000) {
            seam_put(reader, 0xE0 | code >> 12, at);
        } else {
            seam_put(reader, 0xF0 | code >> 18, at);
            seam_put(reader, 0x80 | (code >> 12 & 0x3F), at);
        }
        seam_put(reader, 0x80 | (code >> 6 & 0x3F), at);
    }
    seam_put(reader, 0x80 | (code & 0x3F), at);
}
