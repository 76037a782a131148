package dev.himix.edge;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.Test;

/** A session that is used as it should not be: the right answer, or one clear line. */
public class HostileSessionTest {
    private static final ImageKV NONE = null;

    @Test
    public void threadsWaitForEachOther() throws Exception {
        Session session = Fixtures.session();
        List<Callable<int[]>> asked = new ArrayList<>();
        List<int[]> alone = new ArrayList<>();
        for (int i = 0; i < 4; i++) {
            ImageKV image = session.encodeImage(photo(i));
            asked.add(() -> answer(session, image));
            alone.add(answer(session, image));
        }
        ExecutorService pool = Executors.newFixedThreadPool(4);
        List<Future<int[]>> together = pool.invokeAll(asked);
        for (int i = 0; i < 4; i++) {
            assertArrayEquals(alone.get(i), together.get(i).get());
        }
        pool.shutdown();
    }

    @Test
    public void aListenerCannotAskInTheMiddleOfAnAnswer() {
        Session session = Fixtures.session();
        ImageKV image = session.encodeImage(photo(0));
        int[] alone = answer(session, image);
        Answer answer = new Answer();
        session.generate("Describe the image.", image, Answer.greedy(16), (token, text) -> {
            for (Runnable call : new Runnable[] {
                () -> session.generate("And?", NONE, Answer.greedy(1), new Answer()),
                () -> session.encodeImage(photo(1)), session::close,
            }) {
                InputException error = assertThrows(InputException.class, call::run);
                assertTrue(error.getMessage(), error.getMessage().contains("in the middle of an answer"));
            }
            return answer.onToken(token, text);
        });
        assertArrayEquals(alone, answer.ids());
    }

    @Test
    public void anAnswerThatWasLeftInTheMiddleLeavesNothingBehind() {
        Session session = Fixtures.session();
        ImageKV image = session.encodeImage(photo(0));
        int[] alone = answer(session, image);
        assertThrows(
                IllegalStateException.class,
                () -> session.generate("Describe the image.", image, Answer.greedy(16), (token, text) -> {
                    throw new IllegalStateException("the screen is gone");
                }));
        assertArrayEquals(alone, answer(session, image));
    }

    @Test
    public void aClosedSessionSaysSo() {
        Fixtures.loadRuntime();
        Session session = Session.open(Fixtures.BUNDLE, 1);
        session.close();
        session.close();
        InputException error = assertThrows(
                InputException.class, () -> session.generate("What?", NONE, Answer.greedy(1), new Answer()));
        assertTrue(error.getMessage(), error.getMessage().startsWith("this session is closed"));
    }

    @Test
    public void theLeastTemperatureTakesTheLikeliestToken() {
        float[] logits = {1, 3, 2, Float.NEGATIVE_INFINITY};
        assertEquals(1, new Sampler(1e-310, 1, 0).pick(logits));
        assertEquals(1, new Sampler(Double.MIN_VALUE, 0.5, 0).pick(logits));
        for (double temperature : new double[] {Double.NaN, Double.POSITIVE_INFINITY, -1e-310}) {
            assertThrows(InputException.class, () -> new Sampler(temperature, 1, 0));
        }
    }

    @Test
    public void aMillionLettersAreRefusedAndThirtyThousandEncoded() {
        char[] letters = new char[1 << 20];
        Arrays.fill(letters, 'a');
        InputException error = assertThrows(
                InputException.class,
                () -> Fixtures.session().generate(new String(letters), NONE, Answer.greedy(1), new Answer()));
        assertTrue(error.getMessage(), error.getMessage().startsWith("the prompt does not fit"));
        Tokenizer tokenizer = Tokenizer.load(new File(Fixtures.BUNDLE, "tokenizer.json"), Fixtures.rows());
        String word = new String(letters, 0, 30_000);
        StringBuilder decoded = new StringBuilder();
        for (int id : tokenizer.encode(word)) {
            decoded.append(new String(tokenizer.bytesOf(id), java.nio.charset.StandardCharsets.US_ASCII));
        }
        assertEquals(word, decoded.toString());
    }

    @Test
    public void halfASurrogatePairIsTheReplacementCharacter() {
        Tokenizer tokenizer = Tokenizer.load(new File(Fixtures.BUNDLE, "tokenizer.json"), Fixtures.rows());
        assertEquals(tokenizer.encode("a\uFFFDb"), tokenizer.encode("a\uD800b"));
        assertEquals(tokenizer.encode("a\uFFFD"), tokenizer.encode("a\uDC00"));
    }

    @Test
    public void aTallPictureTakesTheMemoryOfItsRows() {
        ImageSource tall = new ImageSource() {
            @Override
            public int width() {
                return 2;
            }

            @Override
            public int height() {
                return PictureFile.LONGEST_SIDE;
            }

            @Override
            public void block(int x, int y, int width, int height, int[] argb) {
                Arrays.fill(argb, 0, width * height, 0xFF000000 | y >> 8);
            }
        };
        byte[] pixels = Resize.toSquare(new Upright(tall, 1), 1024, Resize.Filter.BICUBIC);
        assertEquals(1024 * 1024 * 3, pixels.length);
        assertEquals(128, pixels[512 * 1024 * 3 + 2] & 255, 1);
    }

    @Test
    public void anErrorIsOneLineWhateverAFileIsCalled() {
        String message = new InputException("a\nb\u001b[31m\u202ec\u2028d\uD800").getMessage();
        assertEquals("a\uFFFDb\uFFFD[31m\uFFFDc\uFFFDd\uFFFD", message);
        assertTrue(new InputException(new String(new char[100_000])).getMessage().length() < 700);
    }

    private static int[] answer(Session session, ImageKV image) {
        Answer answer = new Answer();
        session.generate("Describe the image.", image, Answer.greedy(16), answer);
        return answer.ids();
    }

    private static Session.Photo photo(int number) {
        return Fixtures.photo("easy-vqa-" + number + ".png");
    }
}
