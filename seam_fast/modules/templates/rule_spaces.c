
/* Characters that are white space, from the first to the last of each run. */
$spaces_table

static int seam_is_space(uint32_t code)
{
    for (int k = 0; k < SEAM_SPACES; k++)
        if (code <= seam_spaces[k][1])
            return code >= seam_spaces[k][0];
    return 0;
}

/* Rule "spaces": what is between white space. */
static void seam_split(seam_reader *reader, const unsigned char *text, size_t length)
{
    for (size_t at = 0; at < length;) {
        size_t begin = at;
        uint32_t code = seam_character(text, length, &at);
        if (!seam_is_space(code))
            seam_put_character(reader, code, begin);
        else if (seam_end(reader, begin))
            return;
    }
    seam_end(reader, length);
}
