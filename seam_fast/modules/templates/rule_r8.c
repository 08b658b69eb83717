
/* Characters outside ASCII that lower case makes letters a to z of; the rest of what it makes is a space. */
$letters_table

/* Rule "r8": lower case; the letters a to z are words, everything else is between them. */
static void seam_split(seam_reader *reader, const unsigned char *text, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t begin = at;
        uint32_t code = seam_character(text, length, &at);
        if (code >= 'A' && code <= 'Z')
            code += 'a' - 'A';
        if (code >= 'a' && code <= 'z') {
            seam_put(reader, code, begin);
            continue;
        }
        const char *made = "";
        for (int k = 0; code >= 0x80 && k < SEAM_LETTERS; k++)
            if (seam_letters_of[k].code == code)
                made = seam_letters_of[k].made;
        if (*made == 0 && seam_end(reader, begin))
            return;
        for (; *made; made++) {
            if (*made != ' ')
                seam_put(reader, (unsigned char)*made, begin);
            else if (seam_end(reader, at))
                return;
        }
    }
    seam_end(reader, length);
}
