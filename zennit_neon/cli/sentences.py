"""Short texts of four subjects, for a first look at ``zennit-neon text``."""

from __future__ import annotations

__all__ = ["SENTENCES"]

#: Baking, space, football and music, in turn.
SENTENCES = (
    "Knead the dough with flour and water, then let the bread rise near the warm oven.",
    "The rocket carried a small telescope into orbit around the moon.",
    "The striker scored a late goal and the team won the match.",
    "The orchestra played a slow song before the piano began.",
    "Bake the bread in a hot oven until the crust is brown.",
    "A telescope on the moon could see planets around other stars.",
    "The referee stopped the match after a foul by the home team.",
    "She plays the guitar and sings a song at every concert.",
    "Sourdough bread needs flour, salt, water and a lot of time.",
    "Astronauts in orbit watched the planet turn below their rocket.",
    "A goal in the last minute sent the fans of the team home happy.",
    "The concert opened with a piano and ended with the whole orchestra.",
    "Too much flour makes the dough dry and the bread heavy.",
    "The planet has two moons that a small telescope can show.",
    "The goalkeeper saved a penalty, and the match ended without a goal.",
    "He wrote a song for guitar and piano in one night.",
    "Butter, sugar and flour are all a simple cake dough needs.",
    "A rocket must be fast to leave the planet and reach orbit.",
    "Both teams played the second half of the match in heavy rain.",
    "The singer tuned her guitar while the concert hall filled.",
    "Put the cake into the oven and bake it for forty minutes.",
    "The probe left orbit and landed on the far side of the moon.",
    "The coach praised his striker, who had scored in every match.",
    "An orchestra with forty violins played music from old films.",
    "Fresh yeast makes the dough rise before you bake it.",
    "Astronauts brought stones from the moon back to the planet Earth.",
    "Fans cheered when the team scored its third goal.",
    "The music of the piano could be heard through the open window.",
    "Roll out the dough, add butter, and bake it until golden.",
    "The space telescope took pictures of stars and of a distant planet.",
    "The referee showed a red card to the striker of the visiting team.",
    "At the concert the band played each song louder than on the record.",
    "The baker takes the last bread from the oven at dawn.",
    "A new rocket will bring astronauts to the space station in orbit.",
    "The league match was lost by one goal, a penalty in the first half.",
    "Learning the guitar takes longer than learning to sing a song.",
    "Mix flour with eggs, sugar and butter for the cake.",
    "The moon pulls at the sea, and the planet slows down a little.",
    "Our team has a young goalkeeper and two fast players on the left.",
    "The orchestra gave a concert of music for violin and piano.",
)
