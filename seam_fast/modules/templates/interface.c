#include <stddef.h>
#include <stdint.h>

#ifdef __FAST_MATH__
#error "-ffast-math takes away what is added and subtracted to round; leave it out"
#endif

enum {
    SEAM_MAX_LENGTH = $max_length, /* words that are read of a text */
    SEAM_CHUNK = 16                /* steps whose inputs go through the LSTM's input weights at once */
};

typedef struct {
    size_t begin, end; /* its bytes in the text */
    int row;           /* its row of the embedding; row 0 is zero */
} seam_word;

/* The probability of a text in UTF-8 that ends with a zero byte. Bytes that are not UTF-8 count as U+FFFD. */
float seam_probability(const char *text);

/* The same for a text of so many bytes. */
float seam_probability_of(const char *text, size_t length);

/* The first words of a text that $counted, at most `most`; returns their number. */
int seam_words(const char *text, size_t length, seam_word *words, int most);

/* The margin of words: the logit of the target less that of the rest. Words after the first SEAM_MAX_LENGTH are not read. */
float seam_margin(const seam_word *words, int count);

/* 1 / (1 + exp(-margin)). */
float seam_sigmoid(float margin);
